//! The fields that an update changed, as far as they are certain: some of a document's top-level fields.
//! Pure.
//!
//! MongoDB describes an update by paths (`updateDescription` in
//! <https://www.mongodb.com/docs/manual/reference/change-events/update/>). A path without a dot is a
//! top-level field, and the value beside it is its complete new value: with that, the row can be written in
//! the state of the event, and nothing is looked up. Of a path with dots, only its first step is certain, and
//! not its value: the document is looked up, but only the columns and tables of that field are written.
//!
//! A dot may also belong to a field's name (since MongoDB 5.0), which the event does not show. The rule: a
//! document that is looked up and has such a name is written whole ([`Patch::of_document`] returns `None`);
//! and so is one from which a path with dots was removed, or that has nothing where such a path begins,
//! because then the name may have disappeared.

use bson::{RawDocument, RawDocumentBuf};

/// An update of more fields than this is treated as one of the whole document.
const MOST_FIELDS: usize = 16;

/// An update of a field with a longer name, in bytes, is no patch, either: names are part of the statement
/// that writes it.
const LONGEST_NAME: usize = 1000;

/// Some fields of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// The names of the top-level fields that may have changed, sorted. Others have not.
    pub fields: Vec<Box<str>>,
    /// `_id` and those fields that exist and whose values are known.
    pub document: RawDocumentBuf,
    /// Whether all values are known.
    pub is_complete: bool,
}

impl Patch {
    /// The fields in an event's `updateDescription` for the document with this `documentKey`. `None`: too
    /// little is known, or nothing.
    pub fn of_event(description: &RawDocument, document_key: &RawDocument) -> Option<Self> {
        let mut patch = Self { fields: Vec::new(), document: RawDocumentBuf::new(), is_complete: true };
        let mut document = PartialDocument::with_id_of(document_key)?;
        for element in description.iter_elements() {
            let element = element.ok()?;
            match element.key().as_str() {
                "updatedFields" => {
                    for field in elements(element.value().ok()?.as_document()?) {
                        let (path, bytes) = field?;
                        if path.contains('.') {
                            patch.is_complete = false;
                        } else {
                            document.add(bytes);
                        }
                        patch.touch(path)?;
                    }
                }
                "removedFields" => {
                    for path in element.value().ok()?.as_array()? {
                        patch.touch(path.ok()?.as_str().filter(|path| !path.contains('.'))?)?;
                    }
                }
                "truncatedArrays" => {
                    for truncated in element.value().ok()?.as_array()? {
                        patch.is_complete = false;
                        patch.touch(truncated.ok()?.as_document()?.get_str("field").ok()?)?;
                    }
                }
                _ => {}
            }
        }
        (!patch.fields.is_empty()).then_some(())?;
        Some(Self { document: document.finish()?, ..patch })
    }

    fn touch(&mut self, path: &str) -> Option<()> {
        let field = path.split('.').next().unwrap_or_default();
        if let Err(at) = self.fields.binary_search_by(|known| (**known).cmp(field)) {
            let fits = self.fields.len() < MOST_FIELDS && field.len() <= LONGEST_NAME;
            // A backslash would be escaped in `extra`; what is noted there about the `_id` belongs to no
            // part.
            let is_plain = !field.contains('\\') && field != "_id";
            (fits && is_plain).then_some(())?;
            self.fields.insert(at, field.into());
        }
        Some(())
    }

    /// Both, one after the other. `None`: too many fields.
    pub fn then(mut self, later: &Self) -> Option<Self> {
        let mut document = PartialDocument::with_id_of(&self.document)?;
        for element in elements(&self.document).skip(1) {
            let (name, bytes) = element?;
            if !later.has(name) {
                document.add(bytes);
            }
        }
        for element in elements(&later.document).skip(1) {
            document.add(element?.1);
        }
        later.fields.iter().try_for_each(|field| self.touch(field))?;
        let is_complete = self.is_complete && later.is_complete;
        Some(Self { document: document.finish()?, is_complete, ..self })
    }

    /// The patched fields as they are in `document`. `None`: a field's name has a dot, or may have had one,
    /// or occurs twice.
    pub fn of_document(&self, document: &RawDocument) -> Option<RawDocumentBuf> {
        let mut fields = PartialDocument::with_id_of(document)?;
        let mut found = vec![false; self.fields.len()];
        for element in elements(document) {
            let (name, bytes) = element?;
            if name.contains('.') {
                return None;
            }
            if let Some(found) = self.place(name).and_then(|place| found.get_mut(place)) {
                (!std::mem::replace(found, true)).then_some(())?;
                fields.add(bytes);
            }
        }
        (self.is_complete || found.iter().all(|found| *found)).then(|| fields.finish())?
    }

    fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.fields.binary_search_by(|known| (**known).cmp(name)).ok()
    }
}

/// A document of `_id` and some fields, copied byte by byte.
struct PartialDocument(Vec<u8>);

impl PartialDocument {
    /// `None`: there is no `_id`.
    fn with_id_of(document: &RawDocument) -> Option<Self> {
        let id = elements(document).find_map(|element| element.filter(|(name, _)| *name == "_id"))?;
        Some(Self([&[0; 4], id.1].concat()))
    }

    fn add(&mut self, element: &[u8]) {
        self.0.extend_from_slice(element);
    }

    fn finish(mut self) -> Option<RawDocumentBuf> {
        self.0.push(0);
        let length = i32::try_from(self.0.len()).ok()?;
        self.0.first_chunk_mut::<4>()?.copy_from_slice(&length.to_le_bytes());
        RawDocumentBuf::from_bytes(self.0).ok()
    }
}

/// The names and all the bytes of a document's elements.
fn elements(document: &RawDocument) -> impl Iterator<Item = Option<(&str, &[u8])>> {
    // A document begins with its length, an element with its type and name.
    let mut next = 4;
    document.iter_elements().map(move |element| {
        let element = element.ok()?;
        let (name, start) = (element.key().as_str(), next);
        next = start + 1 + name.len() + 1 + element.size();
        Some((name, document.as_bytes().get(start..next)?))
    })
}

#[cfg(test)]
mod tests {
    use bson::{raw::CString, rawdoc};

    use super::*;

    fn patch(description: &RawDocument) -> Option<Patch> {
        Patch::of_event(description, &rawdoc! { "shard": "a", "_id": 7 })
    }

    fn names(patch: &Patch) -> Vec<&str> {
        patch.fields.iter().map(|field| &**field).collect()
    }

    #[test]
    fn fields_without_a_dot_are_known() {
        let told = patch(
            &rawdoc! { "updatedFields": { "b": 1, "a": { "c": [2] } }, "removedFields": ["z"], "truncatedArrays": [] },
        );
        let told = told.unwrap();
        assert_eq!(names(&told), ["a", "b", "z"]);
        assert!(told.is_complete);
        assert_eq!(told.document, rawdoc! { "_id": 7, "b": 1, "a": { "c": [2] } });
    }

    #[test]
    fn of_a_path_the_first_step_is_known() {
        let told = patch(&rawdoc! { "updatedFields": { "tags.3": 1, "n": 2 }, "removedFields": [] }).unwrap();
        assert_eq!((names(&told), told.is_complete), (vec!["n", "tags"], false));
        assert_eq!(told.document, rawdoc! { "_id": 7, "n": 2 });
        let truncated =
            rawdoc! { "updatedFields": {}, "truncatedArrays": [{ "field": "a.b", "newSize": 1 }] };
        let told = patch(&truncated).unwrap();
        assert_eq!((names(&told), told.is_complete), (vec!["a"], false));
    }

    #[test]
    fn what_is_not_certain_is_no_patch() {
        assert_eq!(patch(&rawdoc! { "updatedFields": {}, "removedFields": ["a.b"] }), None);
        assert_eq!(patch(&rawdoc! { "updatedFields": { "a\\b": 1 } }), None);
        let mut long = RawDocumentBuf::new();
        long.append(CString::try_from("x".repeat(LONGEST_NAME + 1)).unwrap(), 1);
        assert_eq!(patch(&rawdoc! { "updatedFields": long }), None);
        assert_eq!(patch(&rawdoc! { "updatedFields": { "a": 1, "_id": 7 } }), None);
        // No condition can be made for no field.
        assert_eq!(patch(&rawdoc! { "updatedFields": {}, "removedFields": [], "truncatedArrays": [] }), None);
        let mut many = RawDocumentBuf::new();
        (0..=MOST_FIELDS).for_each(|i| many.append(CString::try_from(format!("f{i}")).unwrap(), 1));
        assert_eq!(patch(&rawdoc! { "updatedFields": many }), None);
    }

    #[test]
    fn the_later_of_two_counts() {
        let first = patch(&rawdoc! { "updatedFields": { "a": 1, "b": 1, "c": 1 } }).unwrap();
        let second = patch(&rawdoc! { "updatedFields": { "b": 2 }, "removedFields": ["c"] }).unwrap();
        let both = first.clone().then(&second).unwrap();
        assert_eq!((names(&both), both.is_complete), (vec!["a", "b", "c"], true));
        assert_eq!(both.document, rawdoc! { "_id": 7, "a": 1, "b": 2 });
        let third = patch(&rawdoc! { "updatedFields": { "a.x": 2 } }).unwrap();
        let both = first.then(&third).unwrap();
        assert!(!both.is_complete);
        assert_eq!(both.document, rawdoc! { "_id": 7, "b": 1, "c": 1 });
    }

    #[test]
    fn the_fields_of_a_document() {
        let told = patch(&rawdoc! { "updatedFields": { "a.x": 2, "c": 1 } }).unwrap();
        let of = |document: &RawDocument| told.of_document(document);
        assert_eq!(
            of(&rawdoc! { "b": 1, "a": { "x": 2, "y.z": 1 }, "_id": 7, "c": 1 }),
            Some(rawdoc! { "_id": 7, "a": { "x": 2, "y.z": 1 }, "c": 1 })
        );
        assert_eq!(of(&rawdoc! { "_id": 7, "a": { "x": 2 }, "c": 1, "q.r": 1 }), None);
        assert_eq!(of(&rawdoc! { "_id": 7, "c": 1 }), None, "a.x may have been a name");
        let [twice, beside] = ["c", "b"].map(|name| {
            let mut document = rawdoc! { "_id": 7, "a": {}, "c": 1 };
            (0..2).for_each(|n| document.append(CString::try_from(name).unwrap(), n));
            of(&document).is_some()
        });
        assert!(!twice && beside, "which of them counts is not this patch's to say");
    }
}
