//! The key by which values are hashed.

use std::fmt;

use bytes::BytesMut;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::extended_json_values;

/// The key of a mapping's hashes.
#[derive(Clone)]
pub struct MaskKey(Hmac<Sha256>);

impl MaskKey {
    /// The key of these bytes, of whatever length.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Hmac::new_from_slice(bytes).expect("HMAC takes keys of any length"))
    }

    /// Tells this key from others, and nothing of it: the hash of a text that is no value of anybody's, cut in half.
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
