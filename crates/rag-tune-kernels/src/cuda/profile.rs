//! Where a device's time goes, by what it does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::device::DeviceError;
use super::driver::{Driver, Mark};

/// How long a device was at one kind of work.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkTime {
    /// A kernel, `cuBLASLt`, or what was done to memory: `copy`, `clear`, `upload`, `download`.
    pub name: &'static str,
    /// How often.
    pub calls: usize,
    /// All of them together.
    pub seconds: f64,
}

/// Begin and end of everything since it was started.
#[derive(Debug, Default)]
pub(super) struct Profile {
    is_on: AtomicBool,
    timed: Mutex<Vec<(&'static str, Mark, Mark)>>,
}

impl Profile {
    pub(super) fn start(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub(super) fn timed<T>(
        &self,
        driver: &dyn Driver,
        name: &'static str,
        work: impl FnOnce(&dyn Driver) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        if !self.is_on() {
            return work(driver);
        }
        let from = driver.mark()?;
        let done = work(driver)?;
        let entry = (name, from, driver.mark()?);
        let mut timed = self.timed.lock().unwrap_or_else(PoisonError::into_inner);
        timed.push(entry);
        Ok(done)
    }

    pub(super) fn take(&self, driver: &dyn Driver) -> Result<Vec<WorkTime>, DeviceError> {
        self.is_on.store(false, Ordering::Relaxed);
        let mut timed = self.timed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums: BTreeMap<&'static str, (usize, f64)> = BTreeMap::new();
        for (name, from, to) in timed.drain(..) {
            let (calls, seconds) = sums.entry(name).or_default();
            *calls += 1;
            *seconds += driver.seconds(from, to)?;
        }
        let times = sums.into_iter().map(|(name, (calls, seconds))| WorkTime {
            name,
            calls,
            seconds,
        });
        let mut times: Vec<_> = times.collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use crate::Tensor;
    use crate::cuda::testing::devices;

    #[test]
    fn what_is_done_between_start_and_end_is_counted() {
        let device = &devices()[0];
        let mut sum = Tensor::zeros_on(device, 3, 5).unwrap();
        device.start_profile();
        let one = Tensor::zeros_on(device, 3, 5).unwrap();
        sum.add_assign(&one).unwrap();
        sum.add_assign(&one).unwrap();
        let times = device.take_profile().unwrap();
        sum.add_assign(&one).unwrap();
        assert!(times.is_sorted_by(|a, b| a.seconds >= b.seconds));
        assert!(times.iter().all(|it| it.seconds >= 0.0));
        let mut calls: Vec<_> = times.iter().map(|it| (it.name, it.calls)).collect();
        calls.sort_unstable();
        assert_eq!(calls, [("add_f32", 2), ("clear", 1)]);
        assert_eq!(device.take_profile().unwrap(), []);
    }
}
