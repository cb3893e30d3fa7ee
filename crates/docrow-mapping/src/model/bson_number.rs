//! MongoDB's numbers: the parts of a `Decimal128`, and one canonical form for all numbers that compare equal.
//!
//! Everything is exact: nothing here rounds. `Decimal128` is IEEE 754-2008 decimal in the binary integer
//! encoding (`bson/source/bson-decimal128/decimal128.md` of the MongoDB specifications).

/// A `Decimal128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decimal {
    /// `coefficient * 10^exponent`; the coefficient is below 10^34.
    Finite { negative: bool, coefficient: u128, exponent: i32 },
    /// An infinity.
    Infinite { negative: bool },
    /// Any NaN.
    NaN,
}

/// The largest coefficient: 34 digits.
pub(crate) const MAX_COEFFICIENT: u128 = 10_u128.pow(34) - 1;
const EXPONENT_BIAS: i32 = 6176;

impl Decimal {
    /// Decodes the 16 bytes of a BSON element. A coefficient out of range means 0, as the standard requires.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        let negative = bits >> 127 == 1;
        match (bits >> 122) & 0x1f {
            0x1f => return Self::NaN,
            0x1e => return Self::Infinite { negative },
            _ => {}
        }
        let (exponent, coefficient) = match (bits >> 125) & 0x3 {
            0x3 => ((bits >> 111) & 0x3fff, 0),
            _ => ((bits >> 113) & 0x3fff, bits & ((1 << 113) - 1)),
        };
        let exponent = i32::try_from(exponent).map_or(0, |biased| biased - EXPONENT_BIAS);
        let coefficient = if coefficient > MAX_COEFFICIENT { 0 } else { coefficient };
        Self::Finite { negative, coefficient, exponent }
    }

    /// The 16 bytes of a BSON element, in canonical encoding; for NaN in the usual one.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let sign = |negative: bool| u128::from(negative) << 127;
        let bits = match self {
            Self::Finite { negative, coefficient, exponent } => {
                let biased = u128::try_from(exponent + EXPONENT_BIAS).unwrap_or(0);
                sign(negative) | (biased << 113) | coefficient
            }
            Self::Infinite { negative } => sign(negative) | (0x1e << 122),
            Self::NaN => 0x1f << 122,
        };
        bits.to_le_bytes()
    }
}

/// A number in canonical form: two numbers are equal in MongoDB exactly when their canonical forms are
/// identical, bit by bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CanonicalNumber {
    /// Every integer within `i64`, and both zeros.
    Int(i64),
    /// Every other value that a double has: the one NaN, the infinities, fractions, large integers.
    Double(f64),
    /// Every other value. The coefficient does not end in 0.
    Decimal { negative: bool, coefficient: u128, exponent: i32 },
}

impl From<f64> for CanonicalNumber {
    fn from(value: f64) -> Self {
        match integer(value) {
            Some(integer) => Self::Int(integer),
            None if value.is_nan() => Self::Double(f64::NAN),
            None => Self::Double(value),
        }
    }
}

impl From<Decimal> for CanonicalNumber {
    fn from(decimal: Decimal) -> Self {
        let (negative, mut coefficient, mut exponent) = match decimal {
            Decimal::Finite { coefficient: 0, .. } => return Self::Int(0),
            Decimal::Finite { negative, coefficient, exponent } => (negative, coefficient, exponent),
            Decimal::Infinite { negative: false } => return Self::Double(f64::INFINITY),
            Decimal::Infinite { negative: true } => return Self::Double(f64::NEG_INFINITY),
            Decimal::NaN => return Self::Double(f64::NAN),
        };
        while coefficient.is_multiple_of(10) {
            coefficient /= 10;
            exponent += 1;
        }
        if let Some(integer) = scaled_integer(negative, coefficient, exponent) {
            return Self::Int(integer);
        }
        match magnitude(coefficient, exponent) {
            Some(double) => Self::Double(if negative { -double } else { double }),
            None => Self::Decimal { negative, coefficient, exponent },
        }
    }
}

/// The integer that `value` equals, if it is one within `i64`. Both zeros are 0.
pub(crate) fn integer(value: f64) -> Option<i64> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    let whole = value.trunc() == value && (-END..END).contains(&value);
    #[expect(clippy::cast_possible_truncation, reason = "whole and in range, so the conversion is exact")]
    whole.then_some(value as i64)
}

/// The int32 with the same value, if there is one: none for -0.
pub(crate) fn int32(value: f64) -> Option<i32> {
    #[expect(clippy::cast_possible_truncation, reason = "a cast that changes the value is detected")]
    let whole = value as i32;
    (f64::from(whole).to_bits() == value.to_bits()).then_some(whole)
}

/// The double that equals `value`, if there is one.
pub(crate) fn double(value: i64) -> Option<f64> {
    let nearest = value as f64;
    (integer(nearest) == Some(value)).then_some(nearest)
}

/// The coefficient and exponent of the decimal that equals the magnitude of `value`, if it has at most 34
/// digits.
pub(crate) fn decimal(value: f64) -> Option<(u128, i32)> {
    const FRACTION: u64 = (1 << 52) - 1;
    if !value.is_finite() {
        return None;
    }
    let bits = value.to_bits();
    let biased = i32::try_from((bits >> 52) & 0x7ff).ok()?;
    let (mantissa, power) = match biased {
        0 => (bits & FRACTION, -1074),
        _ => ((bits & FRACTION) | (1 << 52), biased - 1075),
    };
    if mantissa == 0 {
        return Some((0, 0));
    }
    let (odd, power) = (
        u128::from(mantissa >> mantissa.trailing_zeros()),
        power + i32::try_from(mantissa.trailing_zeros()).ok()?,
    );
    let scale = if power < 0 { 5_u128 } else { 2 }.checked_pow(power.unsigned_abs())?;
    let coefficient = odd.checked_mul(scale)?;
    (coefficient <= MAX_COEFFICIENT).then_some((coefficient, power.min(0)))
}

fn scaled_integer(negative: bool, coefficient: u128, exponent: i32) -> Option<i64> {
    let scale = 10_i128.checked_pow(u32::try_from(exponent).ok()?)?;
    let magnitude = i128::try_from(coefficient).ok()?.checked_mul(scale)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// The double that equals `coefficient * 10^exponent`, if there is one. A decimal is a double when, written
/// as `odd * 2^n`, it has at most 53 bits: so a negative power of ten must cancel its fives, and a positive
/// one must add few.
fn magnitude(coefficient: u128, exponent: i32) -> Option<f64> {
    let fives = 5_u128.checked_pow(exponent.unsigned_abs())?;
    let scaled = if exponent < 0 {
        coefficient.is_multiple_of(fives).then(|| coefficient / fives)?
    } else {
        (coefficient >> coefficient.trailing_zeros()).checked_mul(fives)?
    };
    let odd = scaled >> scaled.trailing_zeros();
    if odd >= 1 << 53 {
        return None;
    }
    let twos = if exponent < 0 { scaled.trailing_zeros() } else { coefficient.trailing_zeros() };
    let power = i32::try_from(twos).ok()? + exponent;
    let power_of_two = f64::from_bits(u64::try_from(1023 + power).ok()? << 52);
    Some(u64::try_from(odd).ok()? as f64 * power_of_two)
}

#[cfg(test)]
mod tests {
    use bson::Decimal128;
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::from_bytes(text.parse::<Decimal128>().unwrap().bytes())
    }

    #[test]
    fn takes_a_decimal_apart() {
        let finite = |negative, coefficient, exponent| Decimal::Finite { negative, coefficient, exponent };
        assert_eq!(decimal("1.50"), finite(false, 150, -2));
        assert_eq!(decimal("-0"), finite(true, 0, 0));
        assert_eq!(decimal("1E+6111"), finite(false, 1, 6111));
        assert_eq!(decimal("1E-6176"), finite(false, 1, -6176));
        assert_eq!(decimal("9999999999999999999999999999999999"), finite(false, MAX_COEFFICIENT, 0));
        assert_eq!(decimal("-Infinity"), Decimal::Infinite { negative: true });
        assert_eq!(decimal("NaN"), Decimal::NaN);
        assert_eq!(Decimal::from_bytes([0xff; 16]), Decimal::NaN);
        let unused = (0x6c10_u128 << 112) | 7;
        assert_eq!(Decimal::from_bytes(unused.to_le_bytes()), finite(false, 0, 0x1820 - EXPONENT_BIAS));
    }

    #[test]
    fn equal_numbers_have_one_form() {
        for (text, form) in [
            ("1.0", CanonicalNumber::Int(1)),
            ("100E-2", CanonicalNumber::Int(1)),
            ("-0E+3", CanonicalNumber::Int(0)),
            ("9223372036854775807", CanonicalNumber::Int(i64::MAX)),
            ("-9223372036854775808", CanonicalNumber::Int(i64::MIN)),
            ("9223372036854775808", CanonicalNumber::Double(9_223_372_036_854_775_808.0)),
            ("0.5", CanonicalNumber::Double(0.5)),
            ("-2.250", CanonicalNumber::Double(-2.25)),
            ("1E+22", CanonicalNumber::Double(1e22)),
            ("0.1", CanonicalNumber::Decimal { negative: false, coefficient: 1, exponent: -1 }),
            ("1E+23", CanonicalNumber::Decimal { negative: false, coefficient: 1, exponent: 23 }),
            (
                "9223372036854775809",
                CanonicalNumber::Decimal {
                    negative: false,
                    coefficient: 9_223_372_036_854_775_809,
                    exponent: 0,
                },
            ),
            ("1E+400", CanonicalNumber::Decimal { negative: false, coefficient: 1, exponent: 400 }),
            ("Infinity", CanonicalNumber::Double(f64::INFINITY)),
        ] {
            assert_eq!(CanonicalNumber::from(decimal(text)), form, "{text}");
        }
        assert_eq!(CanonicalNumber::from(-0.0), CanonicalNumber::Int(0));
        assert_eq!(
            CanonicalNumber::from(9_223_372_036_854_775_808.0),
            CanonicalNumber::Double(9_223_372_036_854_775_808.0)
        );
        assert!(
            matches!(CanonicalNumber::from(decimal("NaN")), CanonicalNumber::Double(nan) if nan.is_nan())
        );
    }

    #[test]
    fn a_double_is_not_the_nearest_integer() {
        assert_eq!(integer(3.5), None);
        assert_eq!(integer(f64::NAN), None);
        assert_eq!(integer(9_223_372_036_854_775_808.0), None);
        assert_eq!(double(9_007_199_254_740_993), None);
        assert_eq!(double(i64::MAX), None);
        assert_eq!(double(i64::MIN), Some(-9_223_372_036_854_775_808.0));
    }

    #[test]
    fn a_double_has_all_its_digits() {
        assert_eq!(super::decimal(0.0), Some((0, 0)));
        assert_eq!(super::decimal(-2.25), Some((225, -2)));
        assert_eq!(super::decimal(1e22), Some((10_u128.pow(22), 0)));
        assert_eq!(super::decimal(0.1), None);
        assert_eq!(super::decimal(1e300), None);
        assert_eq!(super::decimal(f64::MIN_POSITIVE), None);
        assert_eq!(super::decimal(f64::NAN), None);
    }

    proptest! {
        /// Halves, quarters, … have few decimals: as decimals they are the same numbers.
        #[test]
        fn a_dyadic_decimal_is_its_double(units in any::<i32>(), halvings in 0_i32..30) {
            let value = f64::from(units) / 2_f64.powi(halvings);
            let coefficient = u128::from(units.unsigned_abs()) * 5_u128.pow(halvings.unsigned_abs());
            prop_assume!(coefficient <= MAX_COEFFICIENT);
            let same = Decimal::Finite { negative: units < 0, coefficient, exponent: -halvings };
            prop_assert_eq!(CanonicalNumber::from(same), CanonicalNumber::from(value));
        }

        #[test]
        fn a_decimal_is_its_integer(value in any::<i64>(), zeros in 0_u32..15) {
            let coefficient = u128::from(value.unsigned_abs()) * 10_u128.pow(zeros);
            let exponent = -i32::try_from(zeros).unwrap();
            prop_assert_eq!(CanonicalNumber::from(Decimal::Finite { negative: value < 0, coefficient, exponent }), CanonicalNumber::Int(value));
        }
    }
}
