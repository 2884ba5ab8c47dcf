/// The one of `values` that is nearest to `x`, the first of several.
pub fn nearest_value(values: &[f32], x: f32) -> f32 {
    let distance = |value: f32| (f64::from(value) - f64::from(x)).abs();
    let mut nearest = values[0];
    for value in values {
        if distance(*value) < distance(nearest) {
            nearest = *value;
        }
    }
    nearest
}
