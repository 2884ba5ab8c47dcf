//! What a device did, noted so that it can be done again at once: on a GPU as a CUDA graph.
//!
//! A step of decoding is some hundreds of short launches, and each costs the host more than the device needs for it. What is recorded
//! uses the same memory each time: allocations come from a [`Scratch`] that lives as long as the [`Recording`], and what changes
//! from time to time is written beforehand into buffers that the recorded work reads.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::device::{Device, DeviceError};
use super::driver::{Driver, Launch, Product};
use crate::error::KernelError;

/// Something that a driver does without the host's memory.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Launch(Launch),
    Multiply(Product),
    Copy { to: u64, from: u64, bytes: usize },
    Clear { at: u64, bytes: usize },
}

impl Operation {
    /// As a profile calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Launch(launch) => launch.kernel,
            Self::Multiply(_) => "cuBLASLt",
            Self::Copy { .. } => "copy",
            Self::Clear { .. } => "clear",
        }
    }

    /// # Safety
    /// As the driver's call asks for.
    pub(super) unsafe fn run(&self, driver: &dyn Driver) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Launch(launch) => driver.launch(launch),
                Self::Multiply(product) => driver.multiply(product),
                Self::Copy { to, from, bytes } => driver.copy(*to, *from, *bytes),
                Self::Clear { at, bytes } => driver.clear(*at, *bytes),
            }
        }
    }
}

/// Operations in the form that a driver starts at once.
pub(crate) trait Graph: Debug + Send + Sync {
    /// # Safety
    /// As each operation asks for.
    unsafe fn launch(&self) -> Result<(), DeviceError>;
}

/// Memory of recordings of which one runs at a time: what one has given up, the next takes. What a recording has returned holds its
/// values until another one of the same scratch runs. A clone is the same memory.
#[derive(Debug, Clone)]
pub struct Scratch(Arc<Blocks>);

/// Owned by the scratch, its recordings and the buffers that lie in it.
#[derive(Debug)]
pub(super) struct Blocks {
    device: Device,
    all: Mutex<Vec<Block>>,
}

#[derive(Debug)]
struct Block {
    address: u64,
    bytes: usize,
    is_free: bool,
}

impl Scratch {
    /// Nothing yet.
    pub fn new(device: &Device) -> Self {
        let (device, all) = (device.clone(), Mutex::default());
        Self(Arc::new(Blocks { device, all }))
    }
}

impl Blocks {
    /// The smallest free block that is large enough, or a new one.
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = all
            .iter_mut()
            .filter(|block| block.is_free && block.bytes >= bytes);
        if let Some(block) = fitting.min_by_key(|block| block.bytes) {
            block.is_free = false;
            return Ok(block.address);
        }
        let address = self.device.driver().allocate(bytes)?;
        all.push(Block {
            address,
            bytes,
            is_free: false,
        });
        Ok(address)
    }

    /// For what comes later on the device's stream.
    pub(super) fn give_back(&self, address: u64) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let block = all.iter_mut().find(|block| block.address == address);
        if let Some(block) = block {
            block.is_free = true;
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let all = self.all.get_mut().unwrap_or_else(PoisonError::into_inner);
        for block in all {
            // SAFETY: the address is from `allocate`; buffers and recordings that use it would own a share of `self`.
            unsafe { self.device.driver().free(block.address) };
        }
    }
}

/// What is being recorded on a device, if anything is.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    /// Whether there is something in `current`: all other work looks no further.
    is_on: AtomicBool,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    scratch: Arc<Blocks>,
    operations: Vec<Operation>,
}

impl Recorder {
    fn with<T>(&self, use_it: impl FnOnce(&mut Current) -> T) -> Option<T> {
        if !self.is_on.load(Ordering::Acquire) {
            return None;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_mut().map(use_it)
    }

    /// Notes what was done.
    pub(super) fn note(&self, operation: Operation) {
        self.with(|current| current.operations.push(operation));
    }

    /// Memory from the scratch; `None` where nothing is being recorded.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Option<(u64, Arc<Blocks>)>, DeviceError> {
        let allocated = self.with(|current| {
            let address = current.scratch.allocate(bytes)?;
            Ok((address, Arc::clone(&current.scratch)))
        });
        allocated.transpose()
    }

    /// That the host's memory is not asked for: a recording would not see it change.
    pub(super) fn check_host(&self, what: &'static str) -> Result<(), DeviceError> {
        let refused = self.with(|_| DeviceError::Call {
            call: what.to_owned(),
            problem: "work that is being recorded has no part in the host's memory".to_owned(),
        });
        refused.map_or(Ok(()), Err)
    }

    fn replace(&self, new: Option<Current>) -> Option<Current> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_on.store(new.is_some(), Ordering::Release);
        std::mem::replace(&mut *current, new)
    }
}

/// Ends a recording however its work ends.
struct Ending<'a>(&'a Recorder);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.replace(None);
    }
}

/// Work that a device has done and can do again.
#[derive(Debug)]
pub struct Recording {
    device: Device,
    operations: Vec<Operation>,
    graph: Option<Box<dyn Graph>>,
    /// What the work has allocated.
    _scratch: Scratch,
}

impl Device {
    /// Does `work` and notes what it has the device do. Its buffers come from `scratch`. Nothing else uses the device meanwhile, and
    /// `work` moves nothing between it and the host.
    ///
    /// # Errors
    /// Those of `work`; [`KernelError`] if something is being recorded already, or the driver cannot put the work into a graph.
    pub fn record<T, E: From<KernelError>>(
        &self,
        scratch: &Scratch,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<(Recording, T), E> {
        let recorder = self.recorder();
        let failed = |error: DeviceError| KernelError::from(error);
        let problem = match scratch.0.device == *self {
            false => Some("the scratch is another device's"),
            true if recorder.with(|_| ()).is_some() => Some("something is being recorded already"),
            true => None,
        };
        if let Some(problem) = problem {
            return Err(E::from(failed(DeviceError::Call {
                call: "Device::record".to_owned(),
                problem: problem.to_owned(),
            })));
        }
        recorder.replace(Some(Current {
            scratch: Arc::clone(&scratch.0),
            operations: Vec::new(),
        }));
        let ending = Ending(recorder);
        let done = work()?;
        let operations = recorder.replace(None).map_or(vec![], |it| it.operations);
        drop(ending);
        let graph = self.driver().graph(&operations).map_err(failed)?;
        let recording = Recording {
            device: self.clone(),
            operations,
            graph,
            _scratch: scratch.clone(),
        };
        Ok((recording, done))
    }
}

impl Recording {
    /// Does it all again, with the same memory: what `work` has returned holds the new values then.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the driver fails.
    ///
    /// # Safety
    /// What the work used and had not allocated itself is still there, and holds nothing that the work would not have taken: numbers of
    /// rows that it has checked are in the same limits.
    pub unsafe fn replay(&self) -> Result<(), KernelError> {
        // A profile wants to know what the time goes to.
        if let Some(graph) = self.graph.as_ref().filter(|_| !self.device.is_profiled()) {
            // SAFETY: the caller's promise; the rest lies in the scratch.
            return Ok(unsafe { graph.launch() }?);
        }
        for operation in &self.operations {
            // SAFETY: as above.
            unsafe { self.device.run(operation) }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::cuda::DeviceBuffer;
    use crate::cuda::testing::devices;

    fn tensor(device: &Device, value: f32) -> Tensor {
        let values = DeviceBuffer::from_slice(device, &[value; 15]).unwrap();
        Tensor::from_device(3, 5, values)
    }

    /// `2 x + y`, by way of memory that is given up between.
    fn work(x: &Tensor, y: &Tensor) -> Result<Tensor, KernelError> {
        let mut twice = x.zeros_beside(3, 5)?;
        twice.add_assign(x)?;
        twice.add_assign(x)?;
        let mut sum = y.zeros_beside(3, 5)?;
        sum.add_assign(&twice)?;
        drop(twice);
        let mut again = y.zeros_beside(3, 5)?;
        again.add_assign(&sum)?;
        again.add_assign(y)?;
        Ok(again)
    }

    fn read(tensor: &Tensor) -> f32 {
        let values = tensor.to_host().unwrap().into_owned();
        assert!(values.data().iter().all(|it| *it == values.data()[0]));
        values.data()[0]
    }

    #[test]
    fn what_was_recorded_is_done_again_with_new_values() {
        for device in devices() {
            let scratch = Scratch::new(&device);
            let mut x = DeviceBuffer::from_slice(&device, &[1.0_f32; 15]).unwrap();
            let y = tensor(&device, 10.0);
            let mut recorded = Vec::new();
            for round in 0..3 {
                let (recording, sum) = device
                    .record(&scratch, || {
                        let mut there = y.zeros_beside(3, 5)?;
                        there.f32_on_device("test")?.copy_from(0, &x, 0..15)?;
                        work(&there, &y)
                    })
                    .unwrap();
                assert_eq!(read(&sum), 12.0 + 2.0 * round as f32);
                recorded.push((recording, sum));
                x.write(0, &[2.0 + round as f32; 15]).unwrap();
                // Whichever was recorded before: each result is its own.
                for (recording, sum) in &recorded {
                    // SAFETY: `x` and `y` are there.
                    unsafe { recording.replay() }.unwrap();
                    assert_eq!(read(sum), 14.0 + 2.0 * round as f32);
                }
            }
            // The first recording takes three blocks, of which one is its result; each later one two of these and one more.
            assert_eq!(scratch.0.all.lock().unwrap().len(), 3 + 1 + 1);
        }
    }

    #[test]
    fn results_outlive_what_made_them() {
        let device = &devices()[0];
        let before = device.memory().unwrap().free_bytes;
        let sum = {
            let (x, y) = (tensor(device, 1.0), tensor(device, 2.0));
            let scratch = Scratch::new(device);
            let (_, sum) = device.record(&scratch, || work(&x, &y)).unwrap();
            sum
        };
        assert_eq!(read(&sum), 4.0);
        drop(sum);
        // On a GPU a pool keeps what is given up.
        if device.name() == "emulated device" {
            assert_eq!(device.memory().unwrap().free_bytes, before);
        }
    }

    #[test]
    fn what_cannot_be_recorded_is_refused() {
        let device = &devices()[0];
        let scratch = Scratch::new(device);
        let x = tensor(device, 1.0);
        let upload = device.record(&scratch, || {
            DeviceBuffer::from_slice(device, &[1.0_f32; 15])
        });
        let error = upload.unwrap_err().to_string();
        assert!(error.starts_with("upload: work that is being"), "{error}");
        let download = device.record(&scratch, || x.to_host().map(drop));
        let error = download.unwrap_err().to_string();
        assert!(error.starts_with("download: "), "{error}");
        let twice = device.record(&scratch, || {
            device
                .record(&scratch, || Ok::<_, KernelError>(()))
                .map(drop)
        });
        let error = twice.unwrap_err().to_string();
        assert!(error.contains("recorded already"), "{error}");
        // Nothing of this stays on.
        assert_eq!(read(&tensor(device, 3.0)), 3.0);
        assert!(device.record(&scratch, || work(&x, &x)).is_ok());
    }

    #[test]
    fn a_profile_sees_what_a_recording_does() {
        let device = &devices()[0];
        let (x, scratch) = (tensor(device, 1.0), Scratch::new(device));
        let (recording, _sum) = device.record(&scratch, || work(&x, &x)).unwrap();
        device.start_profile();
        // SAFETY: `x` is there.
        unsafe { recording.replay() }.unwrap();
        let times = device.take_profile().unwrap();
        let mut calls: Vec<_> = times.iter().map(|it| (it.name, it.calls)).collect();
        calls.sort_unstable();
        assert_eq!(calls, [("add_f32", 5), ("clear", 3)]);
    }
}
