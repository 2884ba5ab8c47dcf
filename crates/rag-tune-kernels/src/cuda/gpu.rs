//! A GPU through CUDA's driver, kernels from the fatbins that build.rs embeds, products by cuBLASLt.
//!
//! The libraries are loaded when a device is opened: a program with this in it starts where there are none.

mod graph;
mod products;
mod staging;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::sys as blas_sys;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use self::graph::GpuGraph;
use self::products::Blas;
use self::staging::{STAGED_BYTES, Staging};
use super::device::{DeviceError, DeviceMemory};
use super::driver::{Driver, Launch, Mark, Product};
use super::nccl::{self, Nccl};
use super::peers::{IsLost, Member, PeerId, PeerSum};
use super::recording::{Graph, Operation};

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// What a kernel may have of dynamic shared memory without asking.
const PLAIN_SHARED_BYTES: u32 = 48 * 1024;

#[derive(Debug)]
pub(super) struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    /// By name; loaded with the device and kept as long.
    functions: HashMap<String, Function>,
    blas: Blas,
    staging: Mutex<Staging>,
}

#[derive(Debug, Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: a handle; CUDA's calls with it may come from any thread whose context is the device's.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

fn failed(call: impl Into<String>) -> impl FnOnce(DriverError) -> DeviceError {
    let call = call.into();
    move |error| DeviceError::Call {
        call,
        problem: error.to_string(),
    }
}

impl Gpu {
    /// How many the driver shows.
    pub(super) fn count() -> Result<usize, DeviceError> {
        // SAFETY: these only try to load libraries.
        let (has_driver, has_blas) =
            unsafe { (sys::is_culib_present(), blas_sys::is_culib_present()) };
        if !has_driver {
            let problem = "NVIDIA's driver (libcuda.so.1) is not installed here";
            return Err(DeviceError::Missing(problem.to_owned()));
        }
        if !has_blas {
            let problem = "libcublasLt is not found: put the folder of CUDA's libraries (libcublasLt.so.13 or .12) into LD_LIBRARY_PATH";
            return Err(DeviceError::Missing(problem.to_owned()));
        }
        let count = CudaContext::device_count().map_err(failed("cuDeviceGetCount"))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(super) fn check(ordinal: usize) -> Result<(), DeviceError> {
        let count = Self::count()?;
        if ordinal >= count {
            let problem = format!("`cuda:{ordinal}` is asked for, the driver has {count}");
            return Err(DeviceError::Missing(problem));
        }
        Ok(())
    }

    pub(super) fn open(ordinal: usize) -> Result<Self, DeviceError> {
        Self::check(ordinal)?;
        let context = CudaContext::new(ordinal).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: everything goes to one stream, so nothing needs an event to wait for.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("cuStreamCreate"))?;
        keep_memory(&context)?;
        Ok(Self {
            name: context.name().map_err(failed("cuDeviceGetName"))?,
            functions: load_functions()?,
            blas: Blas::new(&stream)?,
            staging: Mutex::new(Staging::new()?),
            context,
            stream,
        })
    }

    /// CUDA's calls refer to the thread's context.
    fn bind(&self) -> Result<(), DeviceError> {
        self.context
            .bind_to_thread()
            .map_err(failed("cuCtxSetCurrent"))
    }
}

/// What is given up stays with the process: the next step asks for it again.
fn keep_memory(context: &CudaContext) -> Result<(), DeviceError> {
    let mut all = u64::MAX;
    // SAFETY: the pool is the device's own, and the attribute is a 64-bit number.
    let set = unsafe {
        result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| {
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut all).cast())
        })
    };
    set.map_err(failed("cuMemPoolSetAttribute"))
}

fn load_functions() -> Result<HashMap<String, Function>, DeviceError> {
    let mut functions = HashMap::new();
    for (file, fatbin, kernels) in FATBINS {
        // SAFETY: the image is a whole fatbin, aligned, and lives as long as the program.
        let module = unsafe { result::module::load_data(fatbin.0.as_ptr().cast()) };
        let module = module.map_err(failed(format!("cuModuleLoadData({file})")))?;
        for kernel in *kernels {
            let name = CString::new(*kernel).map_err(|error| DeviceError::Call {
                call: (*kernel).to_owned(),
                problem: error.to_string(),
            })?;
            // SAFETY: the module stays loaded until the process ends.
            let function = unsafe { result::module::get_function(module, name) };
            let function = function.map_err(failed(format!("cuModuleGetFunction({kernel})")))?;
            functions.insert((*kernel).to_owned(), Function(function));
        }
    }
    Ok(functions)
}

impl Driver for Gpu {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn telling_size(&self) -> usize {
        8192
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.bind()?;
        let (free_bytes, total_bytes) = result::mem_get_info().map_err(failed("cuMemGetInfo"))?;
        Ok(DeviceMemory {
            free_bytes,
            total_bytes,
        })
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.bind()?;
        // SAFETY: the stream is the device's.
        let allocated = unsafe { result::malloc_async(self.stream.cu_stream(), bytes) };
        allocated.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let memory = self.memory();
                let memory = memory.unwrap_or(DeviceMemory {
                    free_bytes: 0,
                    total_bytes: 0,
                });
                DeviceError::OutOfMemory {
                    asked_bytes: bytes,
                    free_bytes: memory.free_bytes,
                    total_bytes: memory.total_bytes,
                }
            }
            _ => failed("cuMemAllocAsync")(error),
        })
    }

    unsafe fn free(&self, address: u64) {
        // An error here is that of an earlier launch, which the next call tells.
        if self.bind().is_ok() {
            // SAFETY: the caller's promise; work that was launched before is before it on the stream.
            unsafe { result::free_async(address, self.stream.cu_stream()) }.ok();
        }
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        self.bind()?;
        if from.len() <= STAGED_BYTES {
            let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the caller's promise.
            return unsafe { staging.upload(&self.stream, to, from) };
        }
        // SAFETY: the caller's promise. From pageable memory the driver copies before it returns.
        let copied = unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) };
        copied.map_err(failed("cuMemcpyHtoDAsync"))
    }

    unsafe fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise; `to` is borrowed until the copy is done.
        let copied = unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) };
        copied.map_err(failed("cuMemcpyDtoHAsync"))?;
        self.synchronize()
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) };
        copied.map_err(failed("cuMemcpyDtoDAsync"))
    }

    unsafe fn clear(&self, at: u64, bytes: usize) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        let cleared = unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) };
        cleared.map_err(failed("cuMemsetD8Async"))
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.bind()?;
        let Some(function) = self.functions.get(launch.kernel) else {
            return Err(DeviceError::Call {
                call: launch.kernel.to_owned(),
                problem: "there is no such kernel in this program".to_owned(),
            });
        };
        let mut bits: Vec<u64> = launch.arguments.iter().map(|it| it.bits).collect();
        let mut pointers: Vec<*mut c_void> =
            bits.iter_mut().map(|it| (&raw mut *it).cast()).collect();
        let [x, y, z] = launch.grid;
        // SAFETY: the function is loaded, the arguments live until the call returns, and are the kernel's by the caller's promise.
        let launched = unsafe {
            let shared = match launch.shared_bytes > PLAIN_SHARED_BYTES {
                true => result::function::set_function_attribute(
                    function.0,
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    launch.shared_bytes.cast_signed(),
                ),
                false => Ok(()),
            };
            shared.and_then(|()| {
                result::launch_kernel(
                    function.0,
                    (x, y, z),
                    (launch.threads, 1, 1),
                    launch.shared_bytes,
                    self.stream.cu_stream(),
                    &mut pointers,
                )
            })
        };
        launched.map_err(failed(format!("cuLaunchKernel({})", launch.kernel)))
    }

    unsafe fn multiply(&self, product: &Product) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { self.blas.multiply(&self.stream, product) }
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.bind()?;
        self.stream
            .synchronize()
            .map_err(failed("cuStreamSynchronize"))
    }

    fn mark(&self) -> Result<Mark, DeviceError> {
        self.bind()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
            .map_err(failed("cuEventCreate"))?;
        // SAFETY: event and stream are this context's.
        let recorded = unsafe { result::event::record(event, self.stream.cu_stream()) };
        recorded.map_err(failed("cuEventRecord"))?;
        Ok(Mark(event as u64))
    }

    fn seconds(&self, from: Mark, to: Mark) -> Result<f64, DeviceError> {
        self.synchronize()?;
        let [from, to] = [from, to].map(|mark| mark.0 as sys::CUevent);
        // SAFETY: both are events that `mark` has made, recorded, and given to nobody else.
        let milliseconds = unsafe {
            let milliseconds = result::event::elapsed(from, to);
            for event in [from, to] {
                result::event::destroy(event).map_err(failed("cuEventDestroy"))?;
            }
            milliseconds.map_err(failed("cuEventElapsedTime"))?
        };
        Ok(f64::from(milliseconds) * 1e-3)
    }

    fn graph(&self, operations: &[Operation]) -> Result<Option<Box<dyn Graph>>, DeviceError> {
        Ok(Some(Box::new(GpuGraph::new(self, operations)?)))
    }

    fn uuid(&self) -> Option<String> {
        let uuid = self.context.uuid().ok()?;
        let bytes = uuid.bytes.iter();
        Some(bytes.map(|byte| format!("{byte:02x}")).collect())
    }

    fn peer_version(&self) -> Result<String, DeviceError> {
        nccl::version()
    }

    fn new_peer_id(&self) -> Result<PeerId, DeviceError> {
        self.bind()?;
        nccl::new_id()
    }

    fn join_peers(
        &self,
        id: &PeerId,
        member: Member,
        is_lost: IsLost<'_>,
    ) -> Result<Box<dyn PeerSum>, DeviceError> {
        let (context, stream) = (self.context.clone(), self.stream.clone());
        Ok(Box::new(Nccl::join(context, stream, id, member, is_lost)?))
    }
}
