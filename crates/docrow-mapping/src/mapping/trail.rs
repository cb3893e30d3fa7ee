//! The way from a document to a value in it, and the path that says so.

use bytes::BytesMut;

use super::extended_json_values;

/// A step on the path to a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum TrailStep {
    /// Into a field: where in the document its name starts and ends.
    Field(usize, usize),
    /// Into an element of an array.
    Element(usize),
}

/// Appends the path of `trail`, in the form of a JSON key without quotes.
pub(super) fn render_trail(out: &mut BytesMut, doc: &[u8], trail: &[TrailStep]) {
    for (i, step) in trail.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b".");
        }
        match *step {
            TrailStep::Field(start, end) => render(out, doc.get(start..end).unwrap_or_default()),
            TrailStep::Element(index) => out.extend_from_slice(itoa::Buffer::new().format(index).as_bytes()),
        }
    }
}

/// Appends one field's name, in the form of a path in a JSON key without quotes.
pub(super) fn render(out: &mut BytesMut, name: &[u8]) {
    for chunk in name.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(['.', '\\']) {
            let (before, after) = rest.split_at(at);
            let (special, after) = after.split_at(1);
            extended_json_values::escaped(out, before.as_bytes());
            out.extend_from_slice(b"\\\\");
            extended_json_values::escaped(out, special.as_bytes());
            rest = after;
        }
        extended_json_values::escaped(out, rest.as_bytes());
        for byte in chunk.invalid() {
            out.extend_from_slice(b"\\\\x");
            extended_json_values::hex(out, &[*byte]);
        }
    }
}
