//! Launches of kernels/adamw.cu.

use super::pieces::{Table, Tensor};
use crate::adamw::check_step;
use crate::error::KernelError;

const THREADS: usize = 256;

/// What holds for all tensors of a step; see [`crate::adamw::AdamW`].
///
/// The scale comes from the host: a run records the gradient's norm, so that a step waits for it in any case.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Counts from 1.
    pub step: u64,
    /// Times the `lr_ratio` of a tensor.
    pub lr: f32,
    /// Multiplies the gradient first.
    pub gradient_scale: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Offset of the denominator.
    pub epsilon: f32,
}

/// Updates parameters and moments of all tensors of `table`, which are `tensors`.
pub(crate) fn update(table: &Table, tensors: &[Tensor<'_>], step: Step) -> Result<(), KernelError> {
    const OPERATION: &str = "adamw";
    check_step(OPERATION, step.step)?;
    table.check(tensors)?;
    let steps = i32::try_from(step.step).unwrap_or(i32::MAX);
    let correction = |beta: f32| (1.0 - f64::from(beta).powi(steps)) as f32;
    let arguments = [
        table.pieces().argument(),
        step.lr.into(),
        step.gradient_scale.into(),
        step.beta1.into(),
        step.beta2.into(),
        step.epsilon.into(),
        correction(step.beta1).into(),
        correction(step.beta2).into(),
    ];
    let grid = [table.pieces().len(), 1, 1];
    // SAFETY: the pieces lie in the tensors, as was just checked, and these are borrowed for writing.
    unsafe {
        table
            .device()
            .launch(OPERATION, grid, (THREADS, 0), &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::AdamW;
    use crate::cuda::pieces::{Group, testing::Owned};
    use crate::cuda::testing::{assert_close, devices};
    use crate::reference;
    use crate::reference::testing::noise;

    /// Nothing, less than a pack, an odd length, whole pieces and a part of one; two groups.
    #[test]
    fn adamw_matches_reference_on_devices() {
        let lens = [0, 3, 1025, 4096, 9001];
        let groups = [
            Group {
                lr_ratio: 1.0,
                weight_decay: 0.1,
            },
            Group {
                lr_ratio: 4.0,
                weight_decay: 0.0,
            },
        ];
        for device in devices() {
            let mut tensors: Vec<_> = (0..lens.len())
                .map(|at| Owned::new(&device, lens[at], at as u64))
                .collect();
            let with_groups: Vec<_> = (0..).map(|at| groups[at % 2]).take(lens.len()).collect();
            let table = {
                let views: Vec<_> = tensors.iter_mut().map(Owned::tensor).collect();
                Table::new(&device, &views, &with_groups).unwrap()
            };
            let parameters = |tensors: &[Owned]| -> Vec<f32> {
                let values = tensors.iter().map(|it| it.parameter.to_vec().unwrap());
                values.flatten().collect()
            };
            let mut expected: Vec<_> = parameters(&tensors)
                .into_iter()
                .map(|it| (it, 0.0, 0.0))
                .collect();
            for step in 1..=3 {
                let mut places = expected.iter_mut();
                for ((at, tensor), group) in tensors.iter_mut().enumerate().zip(&with_groups) {
                    let gradient = noise(1, lens[at], 100 * step + at as u64);
                    tensor.gradient.write(0, gradient.data()).unwrap();
                    let config = AdamW {
                        beta1: 0.9,
                        beta2: 0.99,
                        epsilon: 1e-8,
                        weight_decay: group.weight_decay,
                    };
                    for (gradient, place) in gradient.data().iter().zip(&mut places) {
                        let lr = 1e-2 * group.lr_ratio;
                        *place = reference::adamw(&config, step, lr, gradient * 0.5, *place);
                    }
                }
                let views: Vec<_> = tensors.iter_mut().map(Owned::tensor).collect();
                let step = Step {
                    step,
                    lr: 1e-2,
                    gradient_scale: 0.5,
                    beta1: 0.9,
                    beta2: 0.99,
                    epsilon: 1e-8,
                };
                update(&table, &views, step).unwrap();
            }
            let [parameter, first, second]: [Vec<f32>; 3] = [
                expected.iter().map(|it| it.0).collect(),
                expected.iter().map(|it| it.1).collect(),
                expected.iter().map(|it| it.2).collect(),
            ];
            assert_close("parameter", &parameters(&tensors), &parameter, &parameter);
            let firsts = tensors.iter().map(|it| it.first_moment.to_vec().unwrap());
            let firsts: Vec<f32> = firsts.flatten().collect();
            assert_close("first moment", &firsts, &first, &first);
            let seconds = tensors.iter().map(|it| it.second_moment.to_vec().unwrap());
            let seconds: Vec<f32> = seconds.flatten().collect();
            assert_close("second moment", &seconds, &second, &second);
        }
    }

    #[test]
    fn step_zero_is_refused() {
        let device = &devices()[0];
        let table = Table::new(device, &[], &[]).unwrap();
        let step = Step {
            step: 0,
            lr: 1.0,
            gradient_scale: 1.0,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
        };
        assert!(update(&table, &[], step).is_err());
    }
}
