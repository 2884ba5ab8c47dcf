use crate::adamw::{AdamState, AdamW};

pub(crate) fn update(
    config: &AdamW,
    step: u64,
    lr: f32,
    gradient_scale: f32,
    gradient: &[f32],
    state: &mut AdamState<'_>,
) {
    let steps = i32::try_from(step).unwrap_or(i32::MAX);
    let correction1 = (1.0 - f64::from(config.beta1).powi(steps)) as f32;
    let correction2 = (1.0 - f64::from(config.beta2).powi(steps)) as f32;
    let keep = 1.0 - lr * config.weight_decay;
    let moments = state
        .first_moment
        .iter_mut()
        .zip(state.second_moment.iter_mut());
    for ((parameter, (m, v)), gradient) in state.parameter.iter_mut().zip(moments).zip(gradient) {
        let gradient = gradient * gradient_scale;
        *m = config.beta1 * *m + (1.0 - config.beta1) * gradient;
        *v = config.beta2 * *v + (1.0 - config.beta2) * gradient * gradient;
        let denominator = (*v / correction2).sqrt() + config.epsilon;
        *parameter = *parameter * keep - lr * (*m / correction1) / denominator;
    }
}
