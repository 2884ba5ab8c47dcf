//! Exact fractions.

use std::fmt;

/// A fraction in lowest terms. Every operation is exact, or gives nothing where a part would pass 38 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rational {
    numerator: i128,
    /// Above zero.
    denominator: i128,
}

impl Rational {
    /// `numerator / denominator`; nothing if that is a division by zero.
    pub(super) fn new(numerator: i128, denominator: i128) -> Option<Self> {
        let divisor = greatest_common_divisor(numerator, denominator)?;
        // Zero over zero has no divisor; of the rest, only a denominator of zero stays zero.
        let (numerator, denominator) = (numerator / divisor, denominator / divisor);
        match denominator {
            0 => None,
            1.. => Some(Self {
                numerator,
                denominator,
            }),
            _ => Some(Self {
                numerator: numerator.checked_neg()?,
                denominator: denominator.checked_neg()?,
            }),
        }
    }

    /// A number of digits with at most one point, as in `12`, `1.5`, `.5` or `5.`.
    pub(super) fn from_decimal(text: &str) -> Option<Self> {
        let (whole, places) = text.split_once('.').unwrap_or((text, ""));
        let digits = [whole, places].concat();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let power = u32::try_from(places.len()).ok()?;
        Self::new(digits.parse().ok()?, 10_i128.checked_pow(power)?)
    }

    /// `-self`.
    pub(super) fn negated(self) -> Option<Self> {
        Self::new(self.numerator.checked_neg()?, self.denominator)
    }

    /// `self + other`.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        let denominator = self.denominator.checked_mul(other.denominator)?;
        Self::new(left.checked_add(right)?, denominator)
    }

    /// `self - other`.
    pub(super) fn minus(self, other: Self) -> Option<Self> {
        self.plus(other.negated()?)
    }

    /// `self * other`.
    pub(super) fn times(self, other: Self) -> Option<Self> {
        let numerator = self.numerator.checked_mul(other.numerator)?;
        Self::new(numerator, self.denominator.checked_mul(other.denominator)?)
    }

    /// `self / other`; nothing if `other` is zero.
    pub(super) fn over(self, other: Self) -> Option<Self> {
        self.times(Self::new(other.denominator, other.numerator)?)
    }

    /// The largest whole number that is not above it.
    pub(super) fn floor(self) -> Self {
        Self {
            numerator: self.numerator.div_euclid(self.denominator),
            denominator: 1,
        }
    }

    /// Whether `other` is no further away than half of `10^-places`.
    pub(super) fn rounds_to(self, other: Self, places: usize) -> bool {
        let within = || {
            let half = u32::try_from(places)
                .ok()
                .and_then(|places| Self::new(1, 10_i128.checked_pow(places)?.checked_mul(2)?))?;
            let distance = self.minus(other)?;
            let above = distance.minus(half)?.numerator;
            let below = distance.plus(half)?.numerator;
            Some(above <= 0 && below >= 0)
        };
        within().unwrap_or(false)
    }
}

/// Above zero where one of the two is not zero.
fn greatest_common_divisor(a: i128, b: i128) -> Option<i128> {
    let (mut a, mut b) = (a.checked_abs()?, b.checked_abs()?);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    (a != 0).then_some(a)
}

/// A decimal number where one of up to four places is exact, else a rounded one behind `about`.
impl fmt::Display for Rational {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SCALE: i128 = 10_000;
        if self.denominator == 1 {
            return write!(f, "{}", self.numerator);
        }
        let sign = if self.numerator < 0 { "-" } else { "" };
        let size = self.numerator.unsigned_abs();
        let denominator = self.denominator.unsigned_abs();
        let scale = SCALE.unsigned_abs();
        let Some(scaled) = (size % denominator).checked_mul(scale) else {
            return write!(f, "{}/{}", self.numerator, self.denominator);
        };
        let is_exact = scaled.is_multiple_of(denominator);
        let places = scaled / denominator + u128::from(scaled % denominator * 2 >= denominator);
        let whole = size / denominator + places / scale;
        let places = format!("{:04}", places % scale);
        let places = places.trim_end_matches('0');
        let point = if places.is_empty() { "" } else { "." };
        let about = if is_exact { "" } else { "about " };
        write!(f, "{about}{sign}{whole}{point}{places}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Rational {
        Rational::from_decimal(text).unwrap()
    }

    #[test]
    fn decimals_are_read_exactly_or_not_at_all() {
        assert_eq!(of("0.10"), Rational::new(1, 10).unwrap());
        assert_eq!(of(".5"), of("0.5"));
        assert_eq!(of("5."), of("5"));
        for text in ["", ".", "1.2.3", "1,0", "-1", "1e3", &"9".repeat(39)] {
            assert_eq!(Rational::from_decimal(text), None, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_gives_nothing() {
        let largest = Rational::new(i128::MAX, 1).unwrap();
        assert_eq!(largest.plus(of("1")), None);
        assert_eq!(largest.times(of("2")), None);
        assert_eq!(of("1").over(of("0")), None);
        assert_eq!(Rational::new(i128::MIN, 1), None);
        assert_eq!(Rational::new(0, 0), None);
        assert!(!largest.rounds_to(of("0.5"), 30));
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        let text = |a, b| Rational::new(a, b).unwrap().to_string();
        assert_eq!(text(72, 1), "72");
        assert_eq!(text(-1, 8), "-0.125");
        assert_eq!(text(10, 3), "about 3.3333");
        assert_eq!(text(99_999_999, 100_000_000), "about 1");
    }

    #[test]
    fn rounding_may_miss_by_half_of_the_last_place() {
        let third = Rational::new(10, 3).unwrap();
        assert!(third.rounds_to(of("3.33"), 2));
        assert!(!third.rounds_to(of("3.34"), 2));
        assert!(!third.rounds_to(of("3.33"), 3));
        assert!(of("0.125").rounds_to(of("0.13"), 2) && of("0.125").rounds_to(of("0.12"), 2));
    }

    proptest! {
        #[test]
        fn operations_undo_each_other(a in -999_999_i128..999_999, b in 1_i128..99_999, c in -9999_i128..9999, d in 1_i128..999) {
            let (left, right) = (Rational::new(a, b).unwrap(), Rational::new(c, d).unwrap());
            prop_assert_eq!(left.plus(right).unwrap().minus(right).unwrap(), left);
            if c != 0 {
                prop_assert_eq!(left.times(right).unwrap().over(right).unwrap(), left);
            }
        }
    }
}
