//! Small uploads that the host does not wait for.

use cudarc::driver::{CudaStream, result};

use super::failed;
use crate::cuda::device::DeviceError;

/// Uploads of up to so many bytes go through [`Staging`]: token ids, targets, schedules.
pub(super) const STAGED_BYTES: usize = 1 << 20;

/// Page-locked memory, from which a copy to the device goes on while the host does other things: without it each small upload of a
/// step would wait for the stream.
#[derive(Debug)]
pub(super) struct Staging {
    memory: *mut u8,
    /// What comes first that no copy reads from.
    next: usize,
}

// SAFETY: the memory is the process's, and only the holder of its lock writes to it.
unsafe impl Send for Staging {}

impl Staging {
    const BYTES: usize = 8 * STAGED_BYTES;

    pub(super) fn new() -> Result<Self, DeviceError> {
        // SAFETY: a call without conditions on its arguments; the context is the thread's.
        let memory = unsafe { result::malloc_host(Self::BYTES, 0) };
        Ok(Self {
            memory: memory.map_err(failed("cuMemHostAlloc"))?.cast(),
            next: 0,
        })
    }

    /// # Safety
    /// As [`Driver::upload`](crate::cuda::driver::Driver::upload); `from` has at most `STAGED_BYTES` bytes.
    pub(super) unsafe fn upload(
        &mut self,
        stream: &CudaStream,
        to: u64,
        from: &[u8],
    ) -> Result<(), DeviceError> {
        if self.next + from.len() > Self::BYTES {
            // The copies that were begun still read from it.
            stream
                .synchronize()
                .map_err(failed("cuStreamSynchronize"))?;
            self.next = 0;
        }
        // SAFETY: there is room for so many bytes, which no copy reads from; what is being copied stays until the next wait above.
        let copied = unsafe {
            let staged = std::slice::from_raw_parts_mut(self.memory.add(self.next), from.len());
            staged.copy_from_slice(from);
            result::memcpy_htod_async(to, staged, stream.cu_stream())
        };
        self.next += from.len();
        copied.map_err(failed("cuMemcpyHtoDAsync"))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // An error could not be told to anybody.
        // SAFETY: the memory is from `malloc_host`, and freeing it waits for copies from it.
        unsafe { result::free_host(self.memory.cast()) }.ok();
    }
}
