//! Documents grown from arbitrary bytes: well-formed, but for strings and names of any bytes. A few bytes
//! more or less make another document, so that a fuzzer gets far by small steps.

use crate::framed;

/// The types, containers more often.
const KINDS: [u8; 24] = [
    0x03, 0x04, 0x03, 0x04, 0x01, 0x02, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
    0x10, 0x11, 0x12, 0x13, 0x7f, 0xff, 0x10,
];

/// Names that mappings have, and names that are special somewhere.
const NAMES: [&str; 32] = [
    "_id", "o", "x", "a", "m", "k", "g", "z", "p", "q", "u", "v", "gone", "f0", "f1", "f3", "f8", "f12",
    "f16", "f19", "f20", "f24", "f28", "f32", "f36", "f39", "", "$ref", "$docrow", "a.b", "\\1", "0",
];

/// A document of the bytes.
pub fn document(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = Bytes(bytes);
    let mut elements = b"\x10_id\0\x01\0\0\0".to_vec();
    if bytes.next() & 3 == 0 {
        elements.clear();
    }
    bytes.elements(&mut elements, 0);
    framed(&elements)
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        [(); N].map(|()| self.next())
    }

    /// As many bytes as one byte says, at most `most`.
    fn some(&mut self, most: u8) -> Vec<u8> {
        let count = usize::from(self.next() % (most + 1)).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken.to_vec()
    }

    fn c_string(&mut self) -> Vec<u8> {
        let mut text = self.some(6);
        text.retain(|&byte| byte != 0);
        text.push(0);
        text
    }

    fn elements(&mut self, out: &mut Vec<u8>, depth: usize) {
        while !self.0.is_empty() && depth < 300 {
            let choice = self.next();
            if choice >= 0xf0 {
                return;
            }
            let kind = KINDS[usize::from(choice) % KINDS.len()];
            out.push(kind);
            match NAMES.get(usize::from(self.next() % 40)) {
                Some(name) => out.extend_from_slice(&[name.as_bytes(), b"\0"].concat()),
                None => out.extend_from_slice(&self.c_string()),
            }
            let value = self.value(kind, depth);
            out.extend_from_slice(&value);
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Vec<u8> {
        match kind {
            0x03 | 0x04 => {
                let mut inner = Vec::new();
                self.elements(&mut inner, depth + 1);
                framed(&inner)
            }
            0x02 | 0x0d | 0x0e => self.text(),
            0x05 => {
                let (subtype, bytes) = (self.next() % 8, self.some(20));
                [&length(bytes.len())[..], &[subtype], &bytes].concat()
            }
            0x07 => self.take::<12>().to_vec(),
            0x08 => vec![self.next() & 1],
            0x0b => [self.c_string(), self.c_string()].concat(),
            0x0c => [self.text(), self.take::<12>().to_vec()].concat(),
            0x0f => {
                let (code, mut scope) = (self.text(), Vec::new());
                self.elements(&mut scope, depth + 1);
                let inner = [code, framed(&scope)].concat();
                [&length(inner.len() + 4)[..], &inner].concat()
            }
            0x10 => i32::from(self.next().cast_signed()).to_le_bytes().to_vec(),
            0x01 if self.next() & 1 == 0 => f64::from(self.next().cast_signed()).to_le_bytes().to_vec(),
            0x09 | 0x12 if self.next() & 1 == 0 => {
                i64::from(self.next().cast_signed()).to_le_bytes().to_vec()
            }
            0x01 | 0x09 | 0x11 | 0x12 => self.take::<8>().to_vec(),
            0x13 if self.next() & 1 == 0 => {
                let [coefficient, exponent, sign] = self.take();
                let exponent = (6176 + i128::from(exponent.cast_signed())) << 113;
                let sign = i128::from(sign & 1) << 127;
                (i128::from(coefficient) | exponent | sign).to_le_bytes().to_vec()
            }
            0x13 => self.take::<16>().to_vec(),
            _ => Vec::new(),
        }
    }

    fn text(&mut self) -> Vec<u8> {
        let mut text = self.some(30);
        if text.len() == 24 {
            // Like an ObjectId.
            text.iter_mut().for_each(|byte| *byte = b"0123456789abcdef"[usize::from(*byte % 16)]);
        }
        [&length(text.len() + 1)[..], &text, b"\0"].concat()
    }
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or_default().to_le_bytes()
}
