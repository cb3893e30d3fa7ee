//! The mask key, with which values are hashed.

use std::fmt;

use bytes::BytesMut;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::extended_json_values;

/// A mapping's mask key.
#[derive(Clone)]
pub struct MaskKey(Hmac<Sha256>);

impl MaskKey {
    /// The key with these bytes, of any length.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Hmac::new_from_slice(bytes).expect("HMAC takes keys of any length"))
    }

    /// Distinguishes this key from others, but reveals nothing about it: the hash of a text that is no one's
    /// value, cut in half.
    pub fn fingerprint(&self) -> String {
        let mut out = BytesMut::new();
        self.hash(&mut out, b"docrow: which key is this?\0");
        out.truncate(32);
        String::from_utf8_lossy(&out).into_owned()
    }

    pub(super) fn hash(&self, out: &mut BytesMut, bytes: &[u8]) {
        let hash = self.0.clone().chain_update(bytes).finalize();
        extended_json_values::hex(out, &hash.into_bytes());
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(..)")
    }
}
