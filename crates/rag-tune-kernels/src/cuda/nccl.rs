//! Sums over the GPUs of several processes, by NCCL.
//!
//! cudarc's bindings of it are not used: they look for `libnccl.so` where NVIDIA's packages hold `libnccl.so.2` alone, end the program
//! where a function is missing, and would take a result that only a later NCCL knows for one of an enum's values.
//!
//! The communicator is one that does not block (NCCL 2.14): a call of NCCL returns though other processes are not there yet, or no
//! more. Waiting is done here, looking in turn at NCCL, at the stream, and at whether somebody is known to be lost; then the
//! communicator is aborted, which also ends its kernels that wait on the GPU.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaStream, sys};
use libloading::Library;

use super::device::DeviceError;
use super::peers::{IsLost, Member, PeerId, PeerSum};

const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// 2.14.0, the first with communicators that do not block.
const OLDEST: c_int = 21_400;

/// Between two looks: short beside a sum of tens of megabytes, which takes a millisecond or more.
const PAUSE: Duration = Duration::from_micros(20);

/// Values of nccl.h.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

type Handle = *mut c_void;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([u8; PeerId::BYTES]);

/// `ncclConfig_t` as of 2.14: later versions take it by its size, and their own defaults for the rest.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    /// The end of the structure, which has no meaning.
    padding: c_int,
}

impl Config {
    const THAT_DOES_NOT_BLOCK: Self = Self {
        size: size_of::<Self>(),
        magic: 0xcafe_beef,
        version: OLDEST.cast_unsigned(),
        blocking: 0,
        padding: c_int::MIN,
    };
}

/// The functions that are used, of a library that stays loaded. Enums of nccl.h are plain numbers.
struct Functions {
    version: c_int,
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int, *mut Config) -> c_int,
    all_reduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        c_int,
        c_int,
        Handle,
        sys::CUstream,
    ) -> c_int,
    async_error: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    abort: unsafe extern "C" fn(Handle) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    _library: Library,
}

fn functions() -> Result<&'static Functions, DeviceError> {
    static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(load).as_ref();
    loaded.map_err(|problem| DeviceError::Call {
        call: "NCCL".to_owned(),
        problem: problem.clone(),
    })
}

fn load() -> Result<Functions, String> {
    // SAFETY: what NCCL does when it is loaded is NVIDIA's: it registers CUDA kernels.
    let library = NAMES
        .iter()
        .find_map(|name| unsafe { Library::new(*name) }.ok());
    let Some(library) = library else {
        return Err("libnccl.so.2 is not found: put its folder into LD_LIBRARY_PATH".to_owned());
    };
    let missing = |error: libloading::Error| format!("it is not NCCL 2.14 or later: {error}");
    let mut version = 0;
    // SAFETY: the types are those of nccl.h, and the library stays loaded as long as its functions can be reached.
    let functions = unsafe {
        let get_version: unsafe extern "C" fn(*mut c_int) -> c_int =
            *library.get("ncclGetVersion").map_err(missing)?;
        if get_version(&raw mut version) != SUCCESS || version < OLDEST {
            return Err(format!(
                "it is version {}, and 2.14 is needed",
                in_words(version)
            ));
        }
        Functions {
            version,
            get_unique_id: *library.get("ncclGetUniqueId").map_err(missing)?,
            init: *library.get("ncclCommInitRankConfig").map_err(missing)?,
            all_reduce: *library.get("ncclAllReduce").map_err(missing)?,
            async_error: *library.get("ncclCommGetAsyncError").map_err(missing)?,
            abort: *library.get("ncclCommAbort").map_err(missing)?,
            error_string: *library.get("ncclGetErrorString").map_err(missing)?,
            _library: library,
        }
    };
    Ok(functions)
}

/// 22203 is 2.22.3.
fn in_words(version: c_int) -> String {
    let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
    format!("{major}.{minor}.{patch}")
}

impl Functions {
    /// An error of `call`, unless NCCL is content.
    fn check(&self, call: &str, result: c_int) -> Result<(), DeviceError> {
        if result == SUCCESS {
            return Ok(());
        }
        // SAFETY: NCCL's own texts, which live as long as it is loaded; it has one for numbers that it does not know.
        let text = unsafe {
            let text = (self.error_string)(result);
            match text.is_null() {
                true => format!("error {result}"),
                false => CStr::from_ptr(text).to_string_lossy().into_owned(),
            }
        };
        Err(DeviceError::Call {
            call: call.to_owned(),
            problem: format!("{text} (NCCL_DEBUG=WARN tells more)"),
        })
    }
}

/// Of the library that is found.
pub(super) fn version() -> Result<String, DeviceError> {
    functions().map(|functions| in_words(functions.version))
}

/// A new id. It holds an address at which this process waits for the others.
pub(super) fn new_id() -> Result<PeerId, DeviceError> {
    let functions = functions()?;
    let mut id = UniqueId([0; PeerId::BYTES]);
    // SAFETY: the id is there to be written.
    let result = unsafe { (functions.get_unique_id)(&raw mut id) };
    functions.check("ncclGetUniqueId", result)?;
    Ok(PeerId(id.0))
}

/// A communicator of this process's GPU and those of others.
pub(super) struct Nccl {
    functions: &'static Functions,
    /// Null once it was aborted.
    handle: Handle,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

// SAFETY: NCCL takes calls from any thread, one at a time: `sum` has the value to itself.
unsafe impl Send for Nccl {}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NCCL {}", in_words(self.functions.version))
    }
}

impl Nccl {
    pub(super) fn join(
        context: Arc<CudaContext>,
        stream: Arc<CudaStream>,
        id: &PeerId,
        member: Member,
        is_lost: IsLost<'_>,
    ) -> Result<Self, DeviceError> {
        const CALL: &str = "ncclCommInitRankConfig";
        let mut this = Self {
            functions: functions()?,
            handle: ptr::null_mut(),
            context,
            stream,
        };
        let number = |value: usize| {
            c_int::try_from(value).map_err(|error| DeviceError::Call {
                call: CALL.to_owned(),
                problem: error.to_string(),
            })
        };
        let (size, rank) = (number(member.size)?, number(member.rank)?);
        this.bind()?;
        let mut config = Config::THAT_DOES_NOT_BLOCK;
        // SAFETY: the types are those of nccl.h; NCCL copies id and configuration before it returns.
        let result = unsafe {
            (this.functions.init)(
                &raw mut this.handle,
                size,
                UniqueId(id.0),
                rank,
                &raw mut config,
            )
        };
        this.begun(CALL, result)?;
        this.wait(CALL, is_lost, |_| Ok(true))?;
        Ok(this)
    }

    fn bind(&self) -> Result<(), DeviceError> {
        let bound = self.context.bind_to_thread();
        bound.map_err(|error| call_failed("cuCtxSetCurrent", error.to_string()))
    }

    /// Whether NCCL has taken a call, to be waited for.
    fn begun(&mut self, call: &str, result: c_int) -> Result<(), DeviceError> {
        match result {
            IN_PROGRESS => Ok(()),
            result => self.functions.check(call, result),
        }
        .inspect_err(|_| self.abort())
    }

    /// Looks until NCCL is done with `call` and then `is_done`; what fails, or that somebody is lost, ends the communicator.
    fn wait(
        &mut self,
        call: &str,
        is_lost: IsLost<'_>,
        is_done: impl Fn(&Self) -> Result<bool, DeviceError>,
    ) -> Result<(), DeviceError> {
        loop {
            match self.look(call, is_lost, &is_done) {
                Ok(true) => return Ok(()),
                Ok(false) => sleep(PAUSE),
                Err(error) => {
                    self.abort();
                    return Err(error);
                }
            }
        }
    }

    fn look(
        &self,
        call: &str,
        is_lost: IsLost<'_>,
        is_done: impl Fn(&Self) -> Result<bool, DeviceError>,
    ) -> Result<bool, DeviceError> {
        let mut state = SUCCESS;
        // SAFETY: the communicator was made and not aborted.
        let result = unsafe { (self.functions.async_error)(self.handle, &raw mut state) };
        self.functions.check("ncclCommGetAsyncError", result)?;
        if state != IN_PROGRESS {
            self.functions.check(call, state)?;
            // Not before: NCCL may not have launched anything yet.
            if is_done(self)? {
                return Ok(true);
            }
        }
        match is_lost() {
            true => Err(call_failed(call, "another process is lost".to_owned())),
            false => Ok(false),
        }
    }

    /// Whether all that was launched is done.
    fn is_idle(&self) -> Result<bool, DeviceError> {
        // SAFETY: the stream is the device's.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            error => Err(call_failed("cuStreamQuery", format!("{error:?}"))),
        }
    }

    fn abort(&mut self) {
        let handle = std::mem::replace(&mut self.handle, ptr::null_mut());
        if !handle.is_null() && self.bind().is_ok() {
            // What went wrong before is told; that giving up fails too is not.
            // SAFETY: the communicator was made, and is not used any more.
            unsafe { (self.functions.abort)(handle) };
        }
    }
}

impl PeerSum for Nccl {
    unsafe fn sum(&mut self, at: u64, len: usize, is_lost: IsLost<'_>) -> Result<(), DeviceError> {
        const CALL: &str = "ncclAllReduce";
        if self.handle.is_null() {
            return Err(call_failed(CALL, "the sums were given up".to_owned()));
        }
        self.bind()?;
        // SAFETY: the caller's promise; in place, as NCCL allows.
        let result = unsafe {
            (self.functions.all_reduce)(
                at as *const c_void,
                at as *mut c_void,
                len,
                FLOAT32,
                SUM,
                self.handle,
                self.stream.cu_stream(),
            )
        };
        self.begun(CALL, result)?;
        self.wait(CALL, is_lost, Self::is_idle)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Not finalized, for which NCCL would wait for the others: whoever comes here after a run has heard from all that their last
        // sum is done, and whoever comes here after an error must not wait.
        self.abort();
    }
}

fn call_failed(call: &str, problem: String) -> DeviceError {
    DeviceError::Call {
        call: call.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_words() {
        assert_eq!(in_words(OLDEST), "2.14.0");
        assert_eq!(in_words(22_203), "2.22.3");
    }

    /// Where NCCL is installed its functions are all found; where it is not, that is said.
    #[test]
    fn nccl_is_found_or_named() {
        match version() {
            Ok(version) => assert!(version.starts_with("2."), "{version}"),
            Err(error) => assert!(error.to_string().starts_with("NCCL: "), "{error}"),
        }
    }
}
