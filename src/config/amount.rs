//! An amount as users write it: a number of documents, or a number with a unit.

/// A number of documents, more than 0, or the result of `with_unit`.
pub(super) fn amount<T>(
    text: &str,
    documents: fn(u64) -> T,
    with_unit: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let text = text.trim();
    match text.replace(['_', ','], "").parse() {
        Ok(0) => None,
        Ok(number) => Some(documents(number)),
        Err(_) => with_unit(text),
    }
}
