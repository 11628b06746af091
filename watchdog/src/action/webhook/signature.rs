//! The signature of a webhook: HMAC-SHA256 over `id.timestamp.body`, as Standard Webhooks has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A key in this form is base64; any other is taken as the bytes of the file.
const PREFIX: &str = "whsec_";
/// 128 bits.
const MIN_BYTES: usize = 16;

/// The key. It is never printed.
pub(super) struct Key(Vec<u8>);

impl Key {
    /// From a file's content, white space at its ends left out.
    pub(super) fn parse(file: &[u8]) -> Result<Self, &'static str> {
        let bytes = file.trim_ascii();
        let key = match bytes.strip_prefix(PREFIX.as_bytes()) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| "what follows whsec_ is not base64")?,
            None => bytes.to_vec(),
        };
        if key.len() < MIN_BYTES {
            return Err("the key has fewer than 16 bytes; make one with `openssl rand -hex 32`");
        }
        Ok(Self(key))
    }

    /// The value of `webhook-signature`; the time is in seconds since 1970.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the specification of Standard Webhooks.
    #[test]
    fn the_published_example_is_signed_alike() {
        let key = Key::parse(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn keys_are_bytes_or_base64_and_never_short() {
        assert_eq!(Key::parse(b" 0123456789abcdef\n").unwrap().0, b"0123456789abcdef");
        assert!(Key::parse(b"0123456789abcde\n").is_err());
        assert!(Key::parse(b"whsec_AAAA").is_err());
        assert!(Key::parse(b"whsec_***").is_err());
        assert!(Key::parse(b"").is_err());
    }
}
