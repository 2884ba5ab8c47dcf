//! A device on the CPU: the kernels' own sources, compiled by a C++ compiler through `kernels/host/cuda_shim.h`.
//!
//! The library is compiled once for its sources, into the build's folder. `RAG_TUNE_EMULATOR=sanitize` compiles it with the address and
//! undefined-behaviour sanitizers; the program must then be run with the address sanitizer's library preloaded (scripts/sanitize-kernels.sh).

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use half::bf16;
use rayon::prelude::*;

use super::device::{DeviceError, DeviceMemory};
use super::driver::{Driver, Factor, Launch, Mark, Product, ProductType};

type LaunchFunction = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const c_uint,
    *const c_uint,
    c_uint,
    *mut *mut c_void,
    u64,
) -> c_int;

#[derive(Debug)]
pub(super) struct Emulator {
    launch: LaunchFunction,
    seed: u64,
    total_bytes: usize,
    opened: Instant,
    /// Bytes by address.
    memory: Mutex<BTreeMap<u64, Box<[Line]>>>,
}

/// What addresses are multiples of.
#[derive(Debug, Clone)]
#[repr(align(256))]
struct Line(#[expect(dead_code)] [u8; 256]);

impl Emulator {
    pub(super) fn open(seed: u64, total_bytes: usize) -> Result<Self, DeviceError> {
        static LIBRARY: OnceLock<Result<LaunchFunction, DeviceError>> = OnceLock::new();
        let launch = LIBRARY.get_or_init(load).clone()?;
        Ok(Self {
            launch,
            seed,
            total_bytes,
            opened: Instant::now(),
            memory: Mutex::default(),
        })
    }
}

fn failed(call: impl Into<String>, problem: impl ToString) -> DeviceError {
    DeviceError::Call {
        call: call.into(),
        problem: problem.to_string(),
    }
}

fn load() -> Result<LaunchFunction, DeviceError> {
    let path = library()?;
    let name =
        CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| failed("dlopen", e))?;
    // SAFETY: the library is this project's; it registers its kernels and does nothing else when it is loaded.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: after a failure `dlerror` gives a message.
        let message = unsafe { CStr::from_ptr(libc::dlerror()) };
        return Err(failed("dlopen", message.to_string_lossy()));
    }
    // SAFETY: the handle is valid, and the name ends with a zero.
    let symbol = unsafe { libc::dlsym(handle, c"emulator_launch".as_ptr()) };
    if symbol.is_null() {
        return Err(failed("dlsym", "the library has no `emulator_launch`"));
    }
    // SAFETY: `emulator_launch` in kernels/host/emulator.cpp has this signature.
    Ok(unsafe { std::mem::transmute::<*mut c_void, LaunchFunction>(symbol) })
}

/// Compiles the library unless it is there.
fn library() -> Result<PathBuf, DeviceError> {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    let host = kernels.join("host");
    let mut sources = files_in(&kernels)?;
    sources.extend(files_in(&host)?);
    let sanitize = std::env::var_os("RAG_TUNE_EMULATOR").is_some_and(|mode| mode == "sanitize");
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for source in &sources {
        for byte in std::fs::read(source).map_err(|e| failed(source.display().to_string(), e))? {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    let mode = if sanitize { "sanitized" } else { "plain" };
    let folder = target_folder().join("emulator");
    let path = folder.join(format!("kernels-{mode}-{hash:016x}.so"));
    if path.exists() {
        return Ok(path);
    }
    // Another process may be at the same: each has a folder of its own, and the last to be done replaces a library by its equal.
    let scratch = folder.join(format!("{mode}-{hash:016x}-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).map_err(|e| failed(scratch.display().to_string(), e))?;
    let units = sources
        .iter()
        .filter(|path| path.extension().is_some_and(|it| it == "cu" || it == "cpp"));
    let units: Vec<_> = units.collect();
    let objects: Result<Vec<_>, _> = units
        .par_iter()
        .map(|source| compile(source, &kernels, &scratch, sanitize))
        .collect();
    let linked = scratch.join("kernels.so");
    let mut command = compiler(sanitize);
    command.arg("-shared").arg("-o").arg(&linked).args(objects?);
    run(&mut command)?;
    let moved = std::fs::rename(&linked, &path);
    moved.map_err(|e| failed(path.display().to_string(), e))?;
    std::fs::remove_dir_all(&scratch).map_err(|e| failed(scratch.display().to_string(), e))?;
    Ok(path)
}

/// The sources in a folder, in order.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, DeviceError> {
    let entries = std::fs::read_dir(folder).map_err(|e| failed(folder.display().to_string(), e))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let is_source = |path: &PathBuf| {
        let extension = path.extension().and_then(|it| it.to_str());
        matches!(extension, Some("cu" | "cuh" | "h" | "cpp"))
    };
    let mut files: Vec<_> = paths.filter(is_source).collect();
    files.sort();
    Ok(files)
}

/// Cargo's: the program under test lies in it.
fn target_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let found = program
        .ancestors()
        .find(|path| path.join("CACHEDIR.TAG").exists());
    found.map_or_else(std::env::temp_dir, Path::to_owned)
}

fn compiler(sanitize: bool) -> Command {
    let program = std::env::var_os("CXX").unwrap_or_else(|| OsString::from("c++"));
    let mut command = Command::new(program);
    command.args(["-std=c++17", "-O2", "-g1", "-fPIC", "-fno-strict-aliasing"]);
    if sanitize {
        command.args([
            "-fsanitize=address,undefined",
            "-fno-sanitize=vptr",
            "-fno-sanitize-recover=all",
            "-fno-omit-frame-pointer",
        ]);
    }
    command
}

/// One source as an object; of a `.cu` with its kernels registered by name.
fn compile(
    source: &Path,
    kernels: &Path,
    scratch: &Path,
    sanitize: bool,
) -> Result<PathBuf, DeviceError> {
    let stem = source.file_stem().unwrap_or_default();
    let object = scratch.join(stem).with_extension("o");
    let mut unit = source.to_owned();
    if source.extension().is_some_and(|it| it == "cu") {
        let text =
            std::fs::read_to_string(source).map_err(|e| failed(source.display().to_string(), e))?;
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let mut lines = format!("#include \"{name}\"\n");
        for kernel in kernel_names(&text) {
            lines += &format!(
                "static emulator::Register register_{kernel}(\"{kernel}\", emulator::Arguments<{kernel}>::signature(), \
                 emulator::Arguments<{kernel}>::launch);\n"
            );
        }
        unit = scratch.join(stem).with_extension("cpp");
        std::fs::write(&unit, lines).map_err(|e| failed(unit.display().to_string(), e))?;
    }
    let mut command = compiler(sanitize);
    command.arg("-I").arg(kernels);
    command.arg("-c").arg(&unit).arg("-o").arg(&object);
    run(&mut command)?;
    Ok(object)
}

/// The names behind `KERNEL(..) void`.
fn kernel_names(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let (_, rest) = line.strip_prefix("KERNEL(")?.split_once(") void ")?;
        Some(rest.split_once('(')?.0)
    })
}

fn run(command: &mut Command) -> Result<(), DeviceError> {
    let what = format!("{command:?}");
    let output = command.output().map_err(|error| failed(&what, error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(what, String::from_utf8_lossy(&output.stderr))),
    }
}

impl Driver for Emulator {
    fn name(&self) -> String {
        "emulated device".to_owned()
    }

    fn telling_size(&self) -> usize {
        16
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let used: usize = memory
            .values()
            .map(|lines| size_of_val::<[Line]>(lines))
            .sum();
        Ok(DeviceMemory {
            free_bytes: self.total_bytes.saturating_sub(used),
            total_bytes: self.total_bytes,
        })
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        let memory = self.memory()?;
        if bytes > memory.free_bytes {
            return Err(DeviceError::OutOfMemory {
                asked_bytes: bytes,
                free_bytes: memory.free_bytes,
                total_bytes: memory.total_bytes,
            });
        }
        // NaN in every float type: what is read before it is written shows.
        let lines = vec![Line([0xff; 256]); bytes.div_ceil(256)].into_boxed_slice();
        let address = lines.as_ptr() as u64;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.insert(address, lines);
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.remove(&address);
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn clear(&self, at: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let name = CString::new(launch.kernel).map_err(|e| failed(launch.kernel, e))?;
        let kinds = launch.arguments.iter().map(|argument| argument.kind);
        let kinds =
            CString::new(kinds.collect::<Vec<_>>()).map_err(|e| failed(launch.kernel, e))?;
        let mut bits: Vec<u64> = launch.arguments.iter().map(|it| it.bits).collect();
        let mut pointers: Vec<*mut c_void> =
            bits.iter_mut().map(|it| (&raw mut *it).cast()).collect();
        let block = [launch.threads, 1, 1];
        // SAFETY: the arguments live until it returns; that they are the kernel's is the caller's promise.
        let code = unsafe {
            (self.launch)(
                name.as_ptr(),
                kinds.as_ptr(),
                launch.grid.as_ptr(),
                block.as_ptr(),
                launch.shared_bytes,
                pointers.as_mut_ptr(),
                self.seed,
            )
        };
        match code {
            0 => Ok(()),
            1 => Err(failed(launch.kernel, "there is no such kernel")),
            _ => Err(failed(
                launch.kernel,
                format!("arguments {kinds:?} are not the kernel's"),
            )),
        }
    }

    unsafe fn multiply(&self, product: &Product) -> Result<(), DeviceError> {
        let Product {
            rows, cols, inner, ..
        } = *product;
        // SAFETY: the caller's promise.
        let (a, b) = unsafe {
            (
                gather(product.a, rows, inner),
                gather(
                    Factor {
                        transposed: !product.b.transposed,
                        ..product.b
                    },
                    cols,
                    inner,
                ),
            )
        };
        for row in 0..rows {
            for col in 0..cols {
                let pairs = a[row * inner..][..inner]
                    .iter()
                    .zip(&b[col * inner..][..inner]);
                let sum: f32 = pairs.map(|(a, b)| a * b).sum();
                let at = row * product.stride + col;
                // SAFETY: the caller's promise.
                unsafe { store(product, at, sum) };
            }
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn mark(&self) -> Result<Mark, DeviceError> {
        // Calls are done when they return.
        let nanoseconds = self.opened.elapsed().as_nanos();
        Ok(Mark(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }

    fn seconds(&self, from: Mark, to: Mark) -> Result<f64, DeviceError> {
        Ok((to.0 - from.0) as f64 * 1e-9)
    }
}

/// `[rows, cols]` of what `op(factor)` is.
///
/// # Safety
/// The values lie in allocated memory.
unsafe fn gather(factor: Factor, rows: usize, cols: usize) -> Vec<f32> {
    let from = factor.address as *const bf16;
    let value = |at: usize| {
        let (row, col) = (at / cols, at % cols);
        let at = match factor.transposed {
            false => row * factor.stride + col,
            true => col * factor.stride + row,
        };
        // SAFETY: the caller's promise.
        unsafe { *from.add(at) }.to_f32()
    };
    (0..rows * cols).map(value).collect()
}

/// # Safety
/// The place `at` of `c` and `d` lies in allocated memory.
unsafe fn store(product: &Product, at: usize, sum: f32) {
    let scaled = product.alpha * sum;
    match product.d_type {
        ProductType::F32 => {
            let (c, d) = (product.c as *const f32, product.d as *mut f32);
            // SAFETY: the caller's promise; `c` is not read where it does not count, as it may hold anything.
            unsafe {
                let kept = if product.beta == 0.0 {
                    0.0
                } else {
                    product.beta * *c.add(at)
                };
                *d.add(at) = scaled + kept;
            }
        }
        ProductType::Bf16 => {
            let (c, d) = (product.c as *const bf16, product.d as *mut bf16);
            // SAFETY: as above.
            unsafe {
                let kept = if product.beta == 0.0 {
                    0.0
                } else {
                    product.beta * (*c.add(at)).to_f32()
                };
                *d.add(at) = bf16::from_f32(scaled + kept);
            }
        }
    }
}
