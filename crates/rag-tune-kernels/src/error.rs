//! What an operation refuses.

use crate::cuda::DeviceError;

/// An operation was called with arguments that do not fit together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum KernelError {
    /// An argument has another shape than the others ask for.
    #[error("{operation}: `{argument}` is {got:?}, expected {expected:?}")]
    Shape {
        /// The operation that was called.
        operation: &'static str,
        /// The argument that does not fit.
        argument: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that the other arguments ask for.
        expected: Vec<usize>,
    },
    /// An argument's value is outside what the operation can do.
    #[error("{operation}: {problem}")]
    Value {
        /// The operation that was called.
        operation: &'static str,
        /// What is wrong, with the value.
        problem: String,
    },
    /// A device or its driver failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Weights are not finite.
    #[error("{count} values are not finite")]
    NotFinite {
        /// How many are NaN or infinite.
        count: usize,
    },
    /// A weight is beyond what f16 can hold, which 8-bit quantisation rounds to first.
    #[error(
        "a value of magnitude {largest} is beyond f16's range (65,504), which 8-bit quantization goes through"
    )]
    BeyondF16 {
        /// The largest magnitude.
        largest: f32,
    },
}

impl KernelError {
    /// Whether a device's memory is not enough for what was asked: less at once may go.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Device(DeviceError::OutOfMemory { .. }))
    }
}

/// `Err` unless `got == expected`.
pub(crate) fn check_shape(
    operation: &'static str,
    argument: &'static str,
    got: &[usize],
    expected: &[usize],
) -> Result<(), KernelError> {
    if got == expected {
        return Ok(());
    }
    Err(KernelError::Shape {
        operation,
        argument,
        got: got.to_vec(),
        expected: expected.to_vec(),
    })
}
