//! AdamW over all tensors of an adapter that lies on a device.

use super::adamw::{self, Step};
use super::buffer::DeviceBuffer;
use super::device::Device;
use super::grad_norm;
use super::pieces::{self, Group, Table};
use super::tensor::DeviceTensor;
use crate::error::{KernelError, check_shape};
use crate::tensor::{Tensor, two_places};

const OPERATION: &str = "adamw";

/// The moments of an adapter's tensors, in f32 and on its device; updates all of them in one launch.
#[derive(Debug)]
pub struct DeviceAdamW {
    device: Device,
    groups: Vec<Group>,
    /// The first and the second of each tensor.
    moments: Vec<[DeviceBuffer<f32>; 2]>,
    /// Of the tensors that the last call was given: from step to step they stay the same.
    table: Option<Table>,
}

impl DeviceAdamW {
    /// Moments of zero for tensors of so many values, each with its group.
    ///
    /// # Errors
    /// [`KernelError::Device`] if the device's memory is not enough.
    pub fn new(
        device: &Device,
        tensors: impl IntoIterator<Item = (usize, Group)>,
    ) -> Result<Self, KernelError> {
        let (mut groups, mut moments) = (Vec::new(), Vec::new());
        for (len, group) in tensors {
            let zeros = || DeviceBuffer::zeros(device, len);
            moments.push([zeros()?, zeros()?]);
            groups.push(group);
        }
        Ok(Self {
            device: device.clone(),
            groups,
            moments,
            table: None,
        })
    }

    /// The Euclidean norm over all gradients, the same bits for the same values. Waits for it.
    ///
    /// # Errors
    /// [`KernelError`] if the tensors are not those of [`DeviceAdamW::new`] on its device, or the driver fails.
    pub fn grad_norm(
        &mut self,
        parameters: Vec<&mut Tensor>,
        gradients: &[&Tensor],
    ) -> Result<f64, KernelError> {
        let (table, _) = self.table_of(parameters, gradients)?;
        let gradients: Result<Vec<_>, _> = gradients.iter().map(|it| f32_values(it)).collect();
        grad_norm::grad_norm(table, &gradients?)
    }

    /// One update of parameters and moments; see [`AdamW`](crate::adamw::AdamW).
    ///
    /// # Errors
    /// As [`DeviceAdamW::grad_norm`]; [`KernelError::Value`] for step 0.
    pub fn update(
        &mut self,
        step: Step,
        parameters: Vec<&mut Tensor>,
        gradients: &[&Tensor],
    ) -> Result<(), KernelError> {
        let (table, tensors) = self.table_of(parameters, gradients)?;
        adamw::update(table, &tensors, step)
    }

    /// Reads the moments of tensor `index`. Waits for them.
    ///
    /// # Errors
    /// [`KernelError`] if there is no such tensor, it has another length, or the driver fails.
    pub fn read_moments(
        &self,
        index: usize,
        first: &mut [f32],
        second: &mut [f32],
    ) -> Result<(), KernelError> {
        for (moment, to) in self.moments_of(index)?.iter().zip([first, second]) {
            check_shape(OPERATION, "moment", &[to.len()], &[moment.len()])?;
            moment.read(0, to)?;
        }
        Ok(())
    }

    /// Overwrites the moments of tensor `index`.
    ///
    /// # Errors
    /// As [`DeviceAdamW::read_moments`].
    pub fn write_moments(
        &mut self,
        index: usize,
        first: &[f32],
        second: &[f32],
    ) -> Result<(), KernelError> {
        self.moments_of(index)?;
        for (moment, from) in self.moments[index].iter_mut().zip([first, second]) {
            check_shape(OPERATION, "moment", &[from.len()], &[moment.len()])?;
            moment.write(0, from)?;
        }
        Ok(())
    }

    fn moments_of(&self, index: usize) -> Result<&[DeviceBuffer<f32>; 2], KernelError> {
        self.moments.get(index).ok_or_else(|| KernelError::Value {
            operation: OPERATION,
            problem: format!("there are {} tensors, not {index}", self.moments.len()),
        })
    }

    /// What is launched over, and its table: that of the last call, unless something lies elsewhere now.
    fn table_of<'a>(
        &'a mut self,
        parameters: Vec<&'a mut Tensor>,
        gradients: &[&'a Tensor],
    ) -> Result<(&'a Table, Vec<pieces::Tensor<'a>>), KernelError> {
        let expected = [self.moments.len()];
        check_shape(OPERATION, "parameters", &[parameters.len()], &expected)?;
        check_shape(OPERATION, "gradients", &[gradients.len()], &expected)?;
        let moments = self.moments.iter_mut();
        let tensors = parameters.into_iter().zip(gradients).zip(moments);
        let tensors = tensors.map(|((parameter, gradient), [first, second])| {
            Ok(pieces::Tensor {
                parameter: parameter.f32_on_device(OPERATION)?,
                gradient: f32_values(gradient)?,
                first_moment: first,
                second_moment: second,
            })
        });
        let tensors = tensors.collect::<Result<Vec<_>, KernelError>>()?;
        let table = match self.table.take() {
            Some(table) if table.is_of(&tensors)? => table,
            _ => Table::new(&self.device, &tensors, &self.groups)?,
        };
        Ok((self.table.insert(table), tensors))
    }
}

/// Sums of gradients are f32.
fn f32_values(tensor: &Tensor) -> Result<&DeviceBuffer<f32>, KernelError> {
    match tensor.on_device() {
        Some(DeviceTensor::F32(values)) => Ok(values),
        Some(DeviceTensor::Bf16(_)) => Err(KernelError::Value {
            operation: OPERATION,
            problem: "a gradient is in bf16".to_owned(),
        }),
        None => Err(two_places(OPERATION)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::{AdamState, AdamW};
    use crate::cuda::testing::devices;
    use crate::reference::testing::noise;

    const GROUP: Group = Group {
        lr_ratio: 2.0,
        weight_decay: 0.1,
    };

    fn step(step: u64) -> Step {
        Step {
            step,
            lr: 1e-2,
            gradient_scale: 0.5,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
        }
    }

    /// Three steps as the CPU makes them; then a shared parameter, which is copied, so that the table is made anew; then the
    /// moments go to another optimizer, which goes on the same.
    #[test]
    fn updates_are_those_of_the_cpu_wherever_tensors_lie() {
        let shapes = [[3, 5], [64, 33]];
        for device in devices() {
            let there = |seed| {
                shapes
                    .map(|[rows, cols]| noise(rows, cols, seed))
                    .map(|it| it.to_device(&device).unwrap())
            };
            let mut parameters = there(1);
            let mut expected = shapes.map(|[rows, cols]| noise(rows, cols, 1).into_vec());
            let mut moments =
                shapes.map(|[rows, cols]| [vec![0.0; rows * cols], vec![0.0; rows * cols]]);
            let lens = shapes.map(|[rows, cols]| rows * cols);
            let new = || DeviceAdamW::new(&device, lens.map(|len| (len, GROUP))).unwrap();
            let mut adamw = new();
            for at in 1..=4 {
                let shared = (at == 3).then(|| parameters[1].clone());
                if at == 4 {
                    let mut next = new();
                    for (index, len) in lens.into_iter().enumerate() {
                        let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
                        adamw.read_moments(index, &mut first, &mut second).unwrap();
                        next.write_moments(index, &first, &second).unwrap();
                    }
                    adamw = next;
                }
                let gradients = there(10 + at);
                let gradients: Vec<_> = gradients.iter().collect();
                let norm = adamw
                    .grad_norm(parameters.iter_mut().collect(), &gradients)
                    .unwrap();
                adamw
                    .update(step(at), parameters.iter_mut().collect(), &gradients)
                    .unwrap();
                let mut squares = 0.0;
                for (index, [rows, cols]) in shapes.into_iter().enumerate() {
                    let gradient = noise(rows, cols, 10 + at);
                    squares += gradient
                        .data()
                        .iter()
                        .map(|it| f64::from(*it).powi(2))
                        .sum::<f64>();
                    let [first_moment, second_moment] = &mut moments[index];
                    let mut state = AdamState {
                        parameter: &mut expected[index],
                        first_moment,
                        second_moment,
                    };
                    let config = AdamW {
                        beta1: 0.9,
                        beta2: 0.99,
                        epsilon: 1e-8,
                        weight_decay: GROUP.weight_decay,
                    };
                    let lr = 1e-2 * GROUP.lr_ratio;
                    config
                        .update(at, lr, 0.5, gradient.data(), &mut state)
                        .unwrap();
                }
                assert!((norm - squares.sqrt()).abs() < 1e-12 * norm, "{norm}");
                drop(shared);
            }
            for (parameter, expected) in parameters.iter().zip(&expected) {
                let got = parameter.to_host().unwrap();
                for (got, expected) in got.data().iter().zip(expected) {
                    assert!((got - expected).abs() < 1e-6, "{got}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_its_own_is_refused() {
        let device = &devices()[0];
        let mut adamw = DeviceAdamW::new(device, [(4, GROUP)]).unwrap();
        let (mut here, gradient) = (noise(1, 4, 1), noise(1, 4, 2));
        let mut there = here.to_device(device).unwrap();
        let gradient_there = gradient.to_device(device).unwrap();
        let mut refused = |parameters, gradients: &[&Tensor]| {
            adamw
                .update(step(1), parameters, gradients)
                .unwrap_err()
                .to_string()
        };
        assert!(
            refused(vec![&mut here], &[&gradient_there]).contains("some arguments are on a device")
        );
        assert!(refused(vec![&mut there], &[&gradient]).contains("some arguments are on a device"));
        assert!(refused(vec![], &[]).contains("`parameters` is [0], expected [1]"));
        let mut longer = noise(1, 5, 1).to_device(device).unwrap();
        assert!(refused(vec![&mut longer], &[&gradient_there]).contains("expected"));
        assert!(adamw.read_moments(1, &mut [], &mut []).is_err());
        assert!(adamw.write_moments(0, &[0.0; 4], &[0.0; 3]).is_err());
    }
}
