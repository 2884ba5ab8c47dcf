//! A GPU through CUDA's driver, kernels from the fatbins that build.rs embeds, products by cuBLASLt.
//!
//! The libraries are loaded when a device is opened: a program with this in it starts where there are none.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::{result as blas, sys as blas_sys};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::device::{DeviceError, DeviceMemory};
use super::driver::{Driver, Factor, Launch, Mark, Product, ProductType};
use super::nccl::{self, Nccl};
use super::peers::{IsLost, Member, PeerId, PeerSum};

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// What a kernel may have of dynamic shared memory without asking.
const PLAIN_SHARED_BYTES: u32 = 48 * 1024;

/// For cuBLASLt; NVIDIA recommends 32 MiB from Hopper on.
const WORKSPACE_BYTES: usize = 32 << 20;

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

#[derive(Debug)]
struct Blas {
    handle: blas_sys::cublasLtHandle_t,
    workspace: u64,
    /// What cuBLASLt advises for a shape: asking takes longer than a small product.
    advice: Mutex<HashMap<Shape, Plan>>,
}

// SAFETY: cuBLASLt's handle may be used by any thread; the workspace is used on one stream only.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// What an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    sizes: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    d_type: ProductType,
    keeps: bool,
    /// Of `b`, `a`, `c` and `d`: the largest power of two up to 256 that divides the address.
    alignments: [u32; 4],
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    descriptor: blas_sys::cublasLtMatmulDesc_t,
    layouts: [blas_sys::cublasLtMatrixLayout_t; 3],
    algorithm: blas_sys::cublasLtMatmulAlgo_t,
}

fn failed(call: impl Into<String>) -> impl FnOnce(DriverError) -> DeviceError {
    let call = call.into();
    move |error| DeviceError::Call {
        call,
        problem: error.to_string(),
    }
}

fn blas_failed(call: &'static str) -> impl FnOnce(blas::CublasError) -> DeviceError {
    move |error| DeviceError::Call {
        call: call.to_owned(),
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

    pub(super) fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let count = Self::count()?;
        if ordinal >= count {
            let problem = format!("`cuda:{ordinal}` is asked for, the driver has {count}");
            return Err(DeviceError::Missing(problem));
        }
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

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
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

/// Uploads of up to so many bytes go through [`Staging`]: token ids, targets, schedules.
const STAGED_BYTES: usize = 1 << 20;

/// Page-locked memory, from which a copy to the device goes on while the host does other things: without it each small upload of a
/// step would wait for the stream.
#[derive(Debug)]
struct Staging {
    memory: *mut u8,
    /// What comes first that no copy reads from.
    next: usize,
}

// SAFETY: the memory is the process's, and only the holder of its lock writes to it.
unsafe impl Send for Staging {}

impl Staging {
    const BYTES: usize = 8 * STAGED_BYTES;

    fn new() -> Result<Self, DeviceError> {
        // SAFETY: a call without conditions on its arguments; the context is the thread's.
        let memory = unsafe { result::malloc_host(Self::BYTES, 0) };
        Ok(Self {
            memory: memory.map_err(failed("cuMemHostAlloc"))?.cast(),
            next: 0,
        })
    }

    /// # Safety
    /// As [`Driver::upload`]; `from` has at most `STAGED_BYTES` bytes.
    unsafe fn upload(
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

impl Blas {
    fn new(stream: &CudaStream) -> Result<Self, DeviceError> {
        // SAFETY: the stream is the device's.
        let workspace = unsafe { result::malloc_async(stream.cu_stream(), WORKSPACE_BYTES) };
        Ok(Self {
            handle: blas::create_handle().map_err(blas_failed("cublasLtCreate"))?,
            workspace: workspace.map_err(failed("cuMemAllocAsync"))?,
            advice: Mutex::default(),
        })
    }

    /// # Safety
    /// As [`Driver::multiply`].
    unsafe fn multiply(&self, stream: &CudaStream, product: &Product) -> Result<(), DeviceError> {
        let plan = self.plan(product)?;
        let [left, right, result] = plan.layouts;
        // Row-major matrices are the transposes of column-major ones: `d^T = op(b)^T op(a)^T`.
        // SAFETY: descriptors live as long as `self`; addresses are the caller's promise.
        let multiplied = unsafe {
            blas::matmul(
                self.handle,
                plan.descriptor,
                (&raw const product.alpha).cast(),
                (&raw const product.beta).cast(),
                product.b.address as *const c_void,
                left,
                product.a.address as *const c_void,
                right,
                product.c as *const c_void,
                result,
                product.d as *mut c_void,
                result,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        };
        multiplied.map_err(blas_failed("cublasLtMatmul"))
    }

    fn plan(&self, product: &Product) -> Result<Plan, DeviceError> {
        let shape = Shape {
            sizes: [product.rows, product.cols, product.inner],
            strides: [product.a.stride, product.b.stride, product.stride],
            transposed: [product.a.transposed, product.b.transposed],
            d_type: product.d_type,
            keeps: product.beta != 0.0,
            alignments: [product.b.address, product.a.address, product.c, product.d].map(alignment),
        };
        let mut advice = self.advice.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = advice.get(&shape) {
            return Ok(*plan);
        }
        let plan = self
            .ask(product, shape.alignments)
            .map_err(blas_failed("cublasLtMatmulAlgoGetHeuristic"))?;
        advice.insert(shape, plan);
        Ok(plan)
    }

    fn ask(&self, product: &Product, alignments: [u32; 4]) -> Result<Plan, blas::CublasError> {
        let bf16 = blas_sys::cudaDataType_t::CUDA_R_16BF;
        let f32 = blas_sys::cudaDataType_t::CUDA_R_32F;
        let d_type = match product.d_type {
            ProductType::F32 => f32,
            ProductType::Bf16 => bf16,
        };
        let compute = blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let descriptor = blas::create_matmul_desc(compute, f32)?;
        use blas_sys::cublasLtMatmulDescAttributes_t as Attribute;
        for (attribute, transposed) in [
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, product.b.transposed),
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, product.a.transposed),
        ] {
            let operation = i32::from(transposed); // CUBLAS_OP_N, CUBLAS_OP_T
            // SAFETY: the attribute is a 32-bit number, and the descriptor was just made.
            unsafe {
                blas::set_matmul_desc_attribute(
                    descriptor,
                    attribute,
                    (&raw const operation).cast(),
                    size_of::<i32>(),
                )?;
            }
        }
        let Product {
            rows, cols, inner, ..
        } = *product;
        // As they lie in memory, read as column-major: `[stride, rows in memory]`.
        let layout = |factor: Factor, [rows, cols]: [usize; 2]| {
            let [rows, cols] = if factor.transposed {
                [cols, rows]
            } else {
                [rows, cols]
            };
            blas::create_matrix_layout(bf16, cols as u64, rows as u64, factor.stride as i64)
        };
        let layouts = [
            layout(product.b, [inner, cols])?,
            layout(product.a, [rows, inner])?,
            blas::create_matrix_layout(d_type, cols as u64, rows as u64, product.stride as i64)?,
        ];
        use blas_sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let preference = blas::create_matmul_pref()?;
        let workspace = WORKSPACE_BYTES;
        // SAFETY: everything was just made, and the preference is given up when it has been read.
        let heuristic = unsafe {
            blas::set_matmul_pref_attribute(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of::<usize>(),
            )?;
            // Untold, it takes 256 for granted, which rows in the middle of a matrix need not have.
            for (attribute, alignment) in [
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ]
            .into_iter()
            .zip(alignments)
            {
                blas::set_matmul_pref_attribute(
                    preference,
                    attribute,
                    (&raw const alignment).cast(),
                    size_of::<u32>(),
                )?;
            }
            let [left, right, result] = layouts;
            let heuristic = blas::get_matmul_algo_heuristic(
                self.handle,
                descriptor,
                left,
                right,
                result,
                result,
                preference,
            );
            blas::destroy_matmul_pref(preference)?;
            heuristic?
        };
        Ok(Plan {
            descriptor,
            layouts,
            algorithm: heuristic.algo,
        })
    }
}

fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

impl Drop for Blas {
    fn drop(&mut self) {
        // The process's last device usually: an error could not be told to anybody.
        // SAFETY: the handle is this value's own.
        unsafe { blas::destroy_handle(self.handle) }.ok();
    }
}
