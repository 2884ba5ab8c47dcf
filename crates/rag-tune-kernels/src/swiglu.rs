//! swiglu: `y = silu(gate) * up`, `silu(g) = g * sigmoid(g)` (arXiv:2002.05202).

use half::bf16;

use crate::cpu;
use crate::cuda::view::ViewMut;
use crate::cuda::{self, DeviceBuffer};
use crate::error::{KernelError, check_shape};
use crate::stored::Stored;
use crate::tensor::{Tensor, two_places};

/// # Shapes
/// `gate`, `up`: `[tokens, intermediate]`; returns the same
///
/// # Errors
/// [`KernelError`] if the shapes differ, or the two are stored in different precisions.
pub fn forward(gate: &Stored, up: &Stored) -> Result<Tensor, KernelError> {
    check_alike("swiglu::forward", gate, up)?;
    let [tokens, features] = gate.shape();
    if let (Some(gate), Some(up)) = (gate.on_device(), up.on_device()) {
        let (gate, up) = (gate?, up?);
        let (shape, device) = ([tokens, features], gate.buffer().device());
        let mut y = DeviceBuffer::<bf16>::stale(device, tokens * features)?;
        let to = ViewMut::new(&mut y, shape);
        cuda::swiglu::forward(gate.view(shape), up.view(shape), to)?;
        return Ok(Tensor::from_device(tokens, features, y));
    }
    let mut y = Tensor::stale(tokens, features);
    cpu::swiglu::forward(gate.values(), up.values(), y.data_mut());
    Ok(y)
}

/// Returns `(d gate, d up)`.
///
/// # Shapes
/// `dy`, `gate`, `up`: `[tokens, intermediate]`
///
/// # Errors
/// As [`forward`].
pub fn backward(dy: Tensor, gate: &Stored, up: &Stored) -> Result<(Tensor, Tensor), KernelError> {
    check_alike("swiglu::backward", gate, up)?;
    check_shape("swiglu::backward", "dy", &dy.shape(), &gate.shape())?;
    let shape @ [tokens, features] = gate.shape();
    if let (Some(dy), Some(gate), Some(up)) = (dy.on_device(), gate.on_device(), up.on_device()) {
        let (dy, gate, up) = (dy.bf16()?, gate?, up?);
        let stale = || DeviceBuffer::<bf16>::stale(gate.buffer().device(), tokens * features);
        let (mut d_gate, mut d_up) = (stale()?, stale()?);
        let to = [&mut d_gate, &mut d_up].map(|buffer| ViewMut::new(buffer, shape));
        let [to_gate, to_up] = to;
        cuda::swiglu::backward(
            dy.view(shape),
            gate.view(shape),
            up.view(shape),
            to_gate,
            to_up,
        )?;
        let [d_gate, d_up] = [d_gate, d_up].map(|it| Tensor::from_device(tokens, features, it));
        return Ok((d_gate, d_up));
    }
    let mut d_gate = dy;
    let mut d_up = Tensor::stale(d_gate.rows(), d_gate.cols());
    cpu::swiglu::backward(
        gate.values(),
        up.values(),
        d_gate.data_mut(),
        d_up.data_mut(),
    );
    Ok((d_gate, d_up))
}

fn check_alike(operation: &'static str, gate: &Stored, up: &Stored) -> Result<(), KernelError> {
    check_shape(operation, "up", &up.shape(), &gate.shape())?;
    if gate.on_device().is_some() || up.on_device().is_some() {
        let both = gate.on_device().is_some() && up.on_device().is_some();
        return if both {
            Ok(())
        } else {
            Err(two_places(operation))
        };
    }
    if std::mem::discriminant(&gate.values()) != std::mem::discriminant(&up.values()) {
        let problem = "`gate` and `up` are stored in different precisions".to_owned();
        return Err(KernelError::Value { operation, problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Compute;
    use crate::reference;
    use crate::reference::testing::{max_error, noise};

    #[test]
    fn swiglu_matches_reference() {
        for (tokens, features) in [(1, 1), (3, 5), (70, 1536)] {
            for compute in [Compute::F32, Compute::Bf16] {
                let mut gate = noise(tokens, features, 1);
                gate.data_mut().iter_mut().for_each(|value| *value *= 20.0);
                let (up, dy) = (noise(tokens, features, 2), noise(tokens, features, 3));
                let (gate, up) = (Stored::new(gate, compute), Stored::new(up, compute));
                let (wide_gate, wide_up) = (gate.clone().into_tensor(), up.clone().into_tensor());
                let expected = reference::swiglu(&wide_gate, &wide_up);
                assert!(max_error(&forward(&gate, &up).unwrap(), &expected) < 1e-5);
                let (d_gate, d_up) = backward(dy.clone(), &gate, &up).unwrap();
                let (expected_gate, expected_up) =
                    reference::swiglu_backward(&dy, &wide_gate, &wide_up);
                assert!(max_error(&d_gate, &expected_gate) < 1e-5);
                assert!(max_error(&d_up, &expected_up) < 1e-5);
            }
        }
    }

    #[test]
    fn two_precisions_are_refused() {
        let gate = Stored::new(noise(2, 3, 1), Compute::F32);
        let up = Stored::new(noise(2, 3, 2), Compute::Bf16);
        assert!(forward(&gate, &up).is_err());
    }
}
