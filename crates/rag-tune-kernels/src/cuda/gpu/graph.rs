//! Recorded operations as a CUDA graph: one call starts all of them.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{CudaGraph, sys};

use super::{Gpu, failed};
use crate::cuda::device::DeviceError;
use crate::cuda::recording::{Graph, Operation};

pub(super) struct GpuGraph(Mutex<CudaGraph>);

// SAFETY: handles; CUDA's calls with them may come from any thread, one at a time, which the mutex sees to.
unsafe impl Send for GpuGraph {}
// SAFETY: as above.
unsafe impl Sync for GpuGraph {}

impl fmt::Debug for GpuGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuGraph").finish_non_exhaustive()
    }
}

impl GpuGraph {
    /// The stream notes the operations instead of doing them; the driver makes a graph of that.
    pub(super) fn new(gpu: &Gpu, operations: &[Operation]) -> Result<Self, DeviceError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        gpu.stream
            .begin_capture(mode)
            .map_err(failed("cuStreamBeginCapture"))?;
        let mut noted = Ok(());
        for operation in operations {
            // SAFETY: nothing is done now; who launches the graph makes the promise.
            noted = noted.and_then(|()| unsafe { operation.run(gpu) });
        }
        // A capture has to end, whatever came of it.
        let graph = gpu
            .stream
            .end_capture(sys::CUgraphInstantiate_flags(0))
            .map_err(failed("cuGraphInstantiate"));
        noted?;
        let graph = graph?.ok_or_else(|| DeviceError::Call {
            call: "cuStreamEndCapture".to_owned(),
            problem: "there is no graph".to_owned(),
        })?;
        graph.upload().map_err(failed("cuGraphUpload"))?;
        Ok(Self(Mutex::new(graph)))
    }
}

impl Graph for GpuGraph {
    unsafe fn launch(&self) -> Result<(), DeviceError> {
        let graph = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        graph.launch().map_err(failed("cuGraphLaunch"))
    }
}
