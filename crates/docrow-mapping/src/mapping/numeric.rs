//! PostgreSQL's binary form of `numeric`: groups of four decimal digits (`src/backend/utils/adt/numeric.c`,
//! `numeric_send`). Written as PostgreSQL itself sends it: no group of zeros at either end.

use bytes::{BufMut, BytesMut};

use crate::model::bson_number::{Decimal, MAX_COEFFICIENT};

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;

/// Groups that a coefficient below 10^38 has.
const MAX_GROUPS: usize = 10;

/// Appends `coefficient * 10^exponent`, with as many decimals as `exponent` says. The coefficient is below
/// 10^34, as that of a `Decimal128` is.
pub(super) fn finite(out: &mut BytesMut, negative: bool, coefficient: u128, exponent: i32) {
    // Shift the coefficient so that its last group ends at a multiple of four digits from the decimal point.
    let shift = exponent.rem_euclid(4).unsigned_abs();
    let mut rest = coefficient * 10_u128.pow(shift);
    let mut weight = i16::try_from(exponent.div_euclid(4)).unwrap_or(0);
    while rest != 0 && rest.is_multiple_of(10_000) {
        rest /= 10_000;
        weight += 1;
    }
    let mut groups = [0_u16; MAX_GROUPS];
    let mut count = 0_i16;
    for group in groups.iter_mut().rev() {
        if rest == 0 {
            break;
        }
        *group = u16::try_from(rest % 10_000).unwrap_or(0);
        rest /= 10_000;
        count += 1;
    }
    let scale = u16::try_from(-exponent).unwrap_or(0);
    let sign = if negative && count > 0 { NEGATIVE } else { 0 };
    head(out, count, if count == 0 { 0 } else { weight + count - 1 }, sign, scale);
    let used = usize::try_from(count).unwrap_or(0);
    for group in groups.iter().skip(MAX_GROUPS - used) {
        out.put_u16(*group);
    }
}

/// Appends NaN.
pub(super) fn nan(out: &mut BytesMut) {
    head(out, 0, 0, NAN, 0);
}

/// Reads what [`finite`] and [`nan`] write.
pub(super) fn read(bytes: &[u8]) -> Option<Decimal> {
    let mut words = bytes.chunks(2).map(|pair| pair.try_into().map(u16::from_be_bytes).ok());
    let mut word = || words.next().flatten();
    let (count, weight, sign, scale) = (word()?, i32::from(word()?.cast_signed()), word()?, word()?);
    if sign == NAN {
        return Some(Decimal::NaN);
    }
    let mut coefficient = 0_u128;
    for _ in 0..count {
        coefficient = coefficient.checked_mul(10_000)?.checked_add(word()?.into())?;
    }
    // The position of the last digit of the last group, from the last decimal.
    let shift = 4 * (weight - i32::from(count) + 1) + i32::from(scale);
    let power = 10_u128.checked_pow(if count == 0 { 0 } else { shift.unsigned_abs() })?;
    let coefficient = match shift {
        0.. => coefficient.checked_mul(power)?,
        _ => coefficient.is_multiple_of(power).then(|| coefficient / power)?,
    };
    let known = sign & !NEGATIVE == 0 && coefficient <= MAX_COEFFICIENT;
    known.then_some(Decimal::Finite { negative: sign == NEGATIVE, coefficient, exponent: -i32::from(scale) })
}

fn head(out: &mut BytesMut, groups: i16, weight: i16, sign: u16, scale: u16) {
    out.put_i16(groups);
    out.put_i16(weight);
    out.put_u16(sign);
    out.put_u16(scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(negative: bool, coefficient: u128, exponent: i32) -> Vec<u16> {
        let mut out = BytesMut::new();
        finite(&mut out, negative, coefficient, exponent);
        out.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    proptest::proptest! {
        #[test]
        fn reads_back(negative: bool, coefficient in 0..=MAX_COEFFICIENT, cut in 0_u32..38, exponent in -6176..=0_i32) {
            let coefficient = coefficient / 10_u128.pow(cut);
            let mut out = BytesMut::new();
            finite(&mut out, negative, coefficient, exponent);
            let negative = negative && coefficient != 0;
            proptest::prop_assert_eq!(read(&out), Some(Decimal::Finite { negative, coefficient, exponent }));
            proptest::prop_assert_eq!(read(&out[..out.len() - 2]), None);
        }
    }

    #[test]
    fn what_no_decimal_says_is_not_read() {
        let read_words =
            |words: &[u16]| read(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>());
        assert_eq!(read_words(&[0, 0, NAN, 0]), Some(Decimal::NaN));
        assert_eq!(read_words(&[0, 0, 0xd000, 0]), None, "infinity");
        assert_eq!(read_words(&[1, 100, 0, 0, 1]), None, "more than 34 digits");
        assert_eq!(read_words(&[1, 0xffff, 0, 0, 1]), None, "more digits than its scale says");
        assert_eq!(read_words(&[]), None);
    }

    /// As PostgreSQL 15 sends them: `select encode(numeric_send('…'), 'hex')`.
    #[test]
    fn is_what_postgres_sends() {
        assert_eq!(words(false, 0, 0), [0, 0, 0, 0]);
        assert_eq!(words(true, 0, -2), [0, 0, 0, 2]);
        assert_eq!(words(false, 1, 0), [1, 0, 0, 0, 1]);
        assert_eq!(words(true, 10_000, 0), [1, 1, NEGATIVE, 0, 1]);
        assert_eq!(words(false, 150, -2), [2, 0, 0, 2, 1, 5000]);
        assert_eq!(words(false, 1, -5), [1, 0xfffe, 0, 5, 1000]);
        assert_eq!(words(false, 123_456_789, -4), [3, 1, 0, 4, 1, 2345, 6789]);
        assert_eq!(words(false, 1, 3), [1, 0, 0, 0, 1000]);
        assert_eq!(words(false, 10_u128.pow(34) - 1, 6111).len(), 4 + 10);
    }
}
