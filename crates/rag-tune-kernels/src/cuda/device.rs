//! A device, shared by all that lies on it.

use std::sync::Arc;

use super::driver::{Argument, Driver, Launch, Product};
use super::profile::{Profile, WorkTime};
use super::recording::{Blocks, Operation, Recorder};
use crate::error::KernelError;

/// A GPU, or an emulation of one. A clone is the same device.
#[derive(Debug, Clone)]
pub struct Device(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    driver: Box<dyn Driver>,
    profile: Profile,
    recorder: Recorder,
}

/// Memory of a whole device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What an allocation may still get.
    pub free_bytes: usize,
    /// All there is.
    pub total_bytes: usize,
}

/// What a device or its driver refuses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DeviceError {
    /// There is none to be used.
    #[error("no GPU: {0}")]
    Missing(String),
    /// Ranks of this machine would have to share.
    #[error("this machine has {gpus} GPUs for {ranks} ranks or more")]
    TooFew {
        /// That the driver shows.
        gpus: usize,
        /// That are known to run here.
        ranks: usize,
    },
    /// Memory is not enough.
    #[error(
        "the device is out of memory: {} were asked for, {} of {} are free",
        mib(asked_bytes),
        mib(free_bytes),
        mib(total_bytes)
    )]
    OutOfMemory {
        /// By one allocation.
        asked_bytes: usize,
        /// At that time.
        free_bytes: usize,
        /// Of the device.
        total_bytes: usize,
    },
    /// A call of the driver or a library failed.
    #[error("{call}: {problem}")]
    Call {
        /// What was called, with the kernel's name if it was a launch.
        call: String,
        /// What the driver says.
        problem: String,
    },
}

fn mib(bytes: &usize) -> String {
    format!("{:.1} MiB", *bytes as f64 / f64::from(1 << 20))
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Device {
    pub(super) fn of(driver: impl Driver + 'static) -> Self {
        Self(Arc::new(Shared {
            driver: Box::new(driver),
            profile: Profile::default(),
            recorder: Recorder::default(),
        }))
    }

    /// The GPU with this number.
    ///
    /// # Errors
    /// [`DeviceError::Missing`] if there is no such GPU, no driver, or this program was built without the feature `cuda`.
    pub fn gpu(ordinal: usize) -> Result<Self, DeviceError> {
        #[cfg(feature = "cuda")]
        return super::gpu::Gpu::open(ordinal).map(Self::of);
        #[cfg(not(feature = "cuda"))]
        Err(not_built(ordinal))
    }

    /// That there is a GPU with this number, without opening it.
    ///
    /// # Errors
    /// As [`Device::gpu`].
    pub fn check_gpu(ordinal: usize) -> Result<(), DeviceError> {
        #[cfg(feature = "cuda")]
        return super::gpu::Gpu::check(ordinal);
        #[cfg(not(feature = "cuda"))]
        Err(not_built(ordinal))
    }

    /// How many GPUs the driver shows to this process.
    ///
    /// # Errors
    /// [`DeviceError::Missing`] if none can be used: no driver, no cuBLASLt, or a program without the feature `cuda`.
    pub fn count() -> Result<usize, DeviceError> {
        #[cfg(feature = "cuda")]
        return super::gpu::Gpu::count();
        #[cfg(not(feature = "cuda"))]
        Err(DeviceError::Missing(
            "this program was built without GPU support (cargo build --features cuda)".to_owned(),
        ))
    }

    /// A device that runs the kernels' sources on the CPU: for tests.
    ///
    /// `seed` shuffles the order of threads and blocks; 0 leaves it.
    ///
    /// # Errors
    /// [`DeviceError::Call`] if the kernels do not compile: it needs a C++ compiler (`c++`, or `CXX`) and the project's sources.
    #[cfg(any(test, feature = "emulator"))]
    pub fn emulated(seed: u64) -> Result<Self, DeviceError> {
        Self::emulated_with_memory(seed, 8 << 30)
    }

    /// As [`Device::emulated`], with no more memory than this.
    ///
    /// # Errors
    /// As [`Device::emulated`].
    #[cfg(any(test, feature = "emulator"))]
    pub fn emulated_with_memory(seed: u64, bytes: usize) -> Result<Self, DeviceError> {
        super::emulator::Emulator::open(seed, bytes).map(Self::of)
    }

    /// What tests run on: an emulated device with its threads in order, and one with them shuffled.
    ///
    /// With `RAG_TUNE_TEST_DEVICE=cuda:N` that GPU alone.
    ///
    /// # Panics
    /// If there is no such device.
    #[cfg(any(test, feature = "emulator"))]
    pub fn tested() -> Vec<Self> {
        let Ok(name) = std::env::var("RAG_TUNE_TEST_DEVICE") else {
            let emulated = [0, 0x5eed].map(Self::emulated);
            return emulated
                .map(|it| it.expect("the kernels compile for the CPU"))
                .into();
        };
        let ordinal = name.strip_prefix("cuda:").and_then(|it| it.parse().ok());
        let ordinal = ordinal.expect("RAG_TUNE_TEST_DEVICE is `cuda:N`");
        vec![Self::gpu(ordinal).expect("RAG_TUNE_TEST_DEVICE names a GPU")]
    }

    /// For people: the processor's name.
    pub fn name(&self) -> String {
        self.0.driver.name()
    }

    /// What no other device has, on whichever machine; `None` where that is not known.
    pub fn uuid(&self) -> Option<String> {
        self.driver().uuid()
    }

    /// Of the whole device.
    ///
    /// # Errors
    /// [`DeviceError`] if the driver does not say.
    pub fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.0.driver.memory()
    }

    /// Waits for all that was launched.
    ///
    /// # Errors
    /// [`DeviceError`] if something of it failed.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.0.driver.synchronize()
    }

    /// From now on, takes the time of everything that the device does, until [`Device::take_profile`].
    pub fn start_profile(&self) {
        self.0.profile.start();
    }

    /// What the device has done since [`Device::start_profile`], what took most first. Waits for it.
    ///
    /// # Errors
    /// [`DeviceError`] if something of it failed.
    pub fn take_profile(&self) -> Result<Vec<WorkTime>, DeviceError> {
        self.0.profile.take(&*self.0.driver)
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        &*self.0.driver
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.0.recorder
    }

    pub(super) fn is_profiled(&self) -> bool {
        self.0.profile.is_on()
    }

    /// Memory, and whom it belongs to if that is not its user alone.
    pub(super) fn allocate(&self, bytes: usize) -> Result<(u64, Option<Arc<Blocks>>), DeviceError> {
        match self.0.recorder.allocate(bytes)? {
            Some((address, scratch)) => Ok((address, Some(scratch))),
            None => Ok((self.driver().allocate(bytes)?, None)),
        }
    }

    /// # Safety
    /// As the driver's call asks for.
    pub(super) unsafe fn run(&self, operation: &Operation) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        let run = |driver: &dyn Driver| unsafe { operation.run(driver) };
        self.0.profile.timed(self.driver(), operation.name(), run)
    }

    /// As [`Device::run`], and notes it where something is being recorded.
    ///
    /// # Safety
    /// As [`Device::run`].
    pub(super) unsafe fn run_first(&self, operation: Operation) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { self.run(&operation) }?;
        self.0.recorder.note(operation);
        Ok(())
    }

    /// Has the driver move something between the device and the host, under a name of which the time may be taken.
    pub(super) fn with_host(
        &self,
        name: &'static str,
        work: impl FnOnce(&dyn Driver) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        self.0.recorder.check_host(name)?;
        self.0.profile.timed(self.driver(), name, work)
    }

    /// Launches `grid` blocks of `threads` threads of a kernel; nothing where a side of the grid is 0.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and what they say of memory is true.
    pub(crate) unsafe fn launch(
        &self,
        kernel: &'static str,
        grid: [usize; 3],
        (threads, shared_bytes): (usize, usize),
        arguments: &[Argument],
    ) -> Result<(), KernelError> {
        if grid.contains(&0) {
            return Ok(());
        }
        let fits = |value: usize| {
            u32::try_from(value).map_err(|_| KernelError::Value {
                operation: kernel,
                problem: format!("a launch of {grid:?} blocks is too large"),
            })
        };
        let launch = Launch {
            kernel,
            grid: [fits(grid[0])?, fits(grid[1])?, fits(grid[2])?],
            threads: fits(threads)?,
            shared_bytes: fits(shared_bytes)?,
            arguments: arguments.to_vec(),
        };
        // SAFETY: the caller's promise.
        Ok(unsafe { self.run_first(Operation::Launch(launch)) }?)
    }

    /// # Safety
    /// The matrices lie in memory of this device, and `c` overlaps neither `a` nor `b`.
    pub(crate) unsafe fn multiply(&self, product: &Product) -> Result<(), KernelError> {
        if product.rows == 0 || product.cols == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        Ok(unsafe { self.run_first(Operation::Multiply(*product)) }?)
    }
}

#[cfg(not(feature = "cuda"))]
fn not_built(ordinal: usize) -> DeviceError {
    DeviceError::Missing(format!(
        "this program was built without GPU support (cargo build --features cuda); `cuda:{ordinal}` needs it"
    ))
}

/// A count as kernels take it.
///
/// # Errors
/// [`KernelError::Value`] if it is beyond 31 bits.
pub(crate) fn count(operation: &'static str, value: usize) -> Result<Argument, KernelError> {
    let problem = || format!("{value} is more than a kernel's 32-bit numbers hold");
    i32::try_from(value)
        .map(Argument::from)
        .map_err(|_| KernelError::Value {
            operation,
            problem: problem(),
        })
}
