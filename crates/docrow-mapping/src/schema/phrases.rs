//! What comments say of the values of a field: how many there are, of which types, and what becomes of them.

use super::sample::{KindSet, KindTally, MAX_FIELDS, SampledValues, ValueKind};
use crate::model::table::{ColumnType, Reading, Scalar};

/// The names of MongoDB's types, as in its `$type`.
const TYPES: [(KindSet, &str); 13] = [
    (KindSet::new(&[ValueKind::Int32]), "int"),
    (KindSet::new(&[ValueKind::ShortLong, ValueKind::Long]), "long"),
    (KindSet::DOUBLES, "double"),
    (KindSet::new(&[ValueKind::Decimal]), "decimal"),
    (KindSet::new(&[ValueKind::Text]), "string"),
    (KindSet::new(&[ValueKind::Hex]), "string like an ObjectId"),
    (KindSet::new(&[ValueKind::ObjectId]), "objectId"),
    (KindSet::new(&[ValueKind::Boolean]), "bool"),
    (KindSet::new(&[ValueKind::Date]), "date"),
    (KindSet::new(&[ValueKind::Uuid, ValueKind::Bytes]), "binData"),
    (KindSet::new(&[ValueKind::Object, ValueKind::DeepObject]), "object"),
    (KindSet::new(&[ValueKind::Array, ValueKind::InnerArray]), "array"),
    (KindSet::new(&[ValueKind::Other]), "other BSON types"),
];

pub(super) const IN_EXTRA: &str = " (in _extra)";
const ALSO_IN_EXTRA: &str = " (also in _extra)";

/// What the comments use, and therefore explain.
#[derive(Default)]
pub(super) struct PhrasesUsed {
    pub(super) shares: bool,
    pub(super) misfits: bool,
    pub(super) notes: bool,
    pub(super) proposals: bool,
    pub(super) nameless: bool,
}

/// The parts of one comment.
#[derive(Default)]
pub(super) struct FieldComment {
    parts: Vec<String>,
    share: bool,
}

impl FieldComment {
    pub(super) fn say(&mut self, part: String) {
        self.parts.push(part);
    }

    pub(super) fn types(&mut self, types: Option<String>) {
        self.parts.extend(types);
    }

    /// How many of `rows` rows have the field, and how many of its values are null.
    pub(super) fn presence(&mut self, seen: &SampledValues, rows: usize) {
        let count = usize::try_from(seen.count()).unwrap_or(usize::MAX);
        let nulls = usize::try_from(seen.nulls).unwrap_or(usize::MAX);
        if count < rows {
            self.share = true;
            self.say(format!("in {}", percent(count, rows)));
        }
        match nulls {
            0 => {}
            _ if nulls == count => self.say("always null".to_owned()),
            _ => self.say(format!("{} null", percent(nulls, count))),
        }
    }

    pub(super) fn finish(self, used: &mut PhrasesUsed) -> String {
        let text = self.parts.join("; ");
        used.shares |= self.share;
        used.misfits |= text.contains(IN_EXTRA);
        used.notes |= text.contains(ALSO_IN_EXTRA);
        text
    }
}

/// What happens to a value in a column: nothing to remark, or that `extra` holds it.
pub(super) fn fate(kind: ValueKind, ty: ColumnType) -> &'static str {
    if !KindSet::of_column(ty.scalar).has(kind) {
        return IN_EXTRA;
    }
    let reads_back = match ty.scalar {
        Scalar::Bigint if ty.reading == Reading::Long => kind != ValueKind::Int32,
        Scalar::Bigint => kind != ValueKind::ShortLong,
        Scalar::Double if ty.reading == Reading::Number => {
            matches!(kind, ValueKind::Int32 | ValueKind::Double)
        }
        Scalar::Double => KindSet::DOUBLES.has(kind),
        Scalar::Numeric => kind == ValueKind::Decimal,
        Scalar::Text => kind != ValueKind::Hex,
        Scalar::Boolean
        | Scalar::Integer
        | Scalar::Bytea
        | Scalar::Uuid
        | Scalar::Timestamptz
        | Scalar::Jsonb => true,
    };
    if reads_back { "" } else { ALSO_IN_EXTRA }
}

/// The types, if they are worth a remark: if there are several, or if something happens to the values of the
/// only one.
pub(super) fn types(tally: &KindTally, fate: impl Fn(ValueKind) -> &'static str) -> Option<String> {
    let several = TYPES.iter().filter(|(kinds, _)| tally.among(*kinds) > 0).count() > 1;
    let fated = ValueKind::ALL.into_iter().any(|kind| tally.count(kind) > 0 && !fate(kind).is_empty());
    (several || fated).then(|| shares(tally, fate))
}

/// `97% string, 3% int (in _extra)`: the most common first.
pub(super) fn shares(tally: &KindTally, fate: impl Fn(ValueKind) -> &'static str) -> String {
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let mut types: Vec<(u32, &str, &str)> = Vec::new();
    for (kinds, name) in TYPES {
        let met = || ValueKind::ALL.into_iter().filter(|&kind| kinds.has(kind) && tally.count(kind) > 0);
        let mut fates: Vec<_> = met().map(&fate).collect();
        fates.dedup();
        for fate_of in fates {
            let sum = met().filter(|&kind| fate(kind) == fate_of).map(|kind| tally.count(kind)).sum();
            types.push((sum, name, fate_of));
        }
    }
    types.sort_by_key(|&(sum, ..)| std::cmp::Reverse(sum));
    let total = count(tally.total());
    let share =
        |(sum, name, fate): &(u32, &str, &str)| format!("{} {name}{fate}", percent(count(*sum), total));
    types.iter().map(share).collect::<Vec<_>>().join(", ")
}

/// Why objects are stored whole, if they are.
pub(super) fn map_of(seen: &SampledValues) -> Option<String> {
    let objects = seen.elements.as_ref().map_or(&seen.objects, |elements| &elements.objects);
    let keys = match objects.width() {
        0 => return None,
        MAX_FIELDS => format!("over {}", MAX_FIELDS - 1),
        keys => keys.to_string(),
    };
    let of = if seen.elements.is_some() { "its objects are maps" } else { "a map" };
    Some(format!("{of}: {keys} different keys"))
}

pub(super) fn percent(part: usize, whole: usize) -> String {
    let whole = whole.max(1);
    match (part.min(whole) * 200 / whole).div_ceil(2) {
        100 if part >= whole => "all".to_owned(),
        0 | 1 if part * 100 < whole => "<1%".to_owned(),
        100 if part < whole => ">99%".to_owned(),
        percent => format!("{percent}%"),
    }
}

/// `12,345`.
pub(super) fn grouped(count: u64) -> String {
    match count {
        0..1000 => count.to_string(),
        _ => format!("{},{:03}", grouped(count / 1000), count % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_never_all_or_none_by_rounding() {
        let all: Vec<_> =
            [(1, 1000), (5, 1000), (10, 1000), (15, 1000), (500, 1000), (999, 1000), (1000, 1000)]
                .map(|(part, whole)| percent(part, whole))
                .into();
        assert_eq!(all, ["<1%", "<1%", "1%", "2%", "50%", ">99%", "all"]);
    }

    #[test]
    fn large_counts_are_grouped() {
        assert_eq!([0, 999, 1000, 1_020_304].map(grouped), ["0", "999", "1,000", "1,020,304"]);
    }
}
