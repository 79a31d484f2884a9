//! Secrets of webhooks, and signatures under them: HMAC-SHA256 as Standard Webhooks 1.0 wants it
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use aws_lc_rs::{hmac, rand};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};

use super::Error;

/// Begins every secret, so that people and scanners know what they look at.
const PREFIX: &str = "whsec_";
/// Bytes of a secret. The standard wants 24 to 64.
const SECRET_LEN: usize = 32;

/// What the receiver of webhooks verifies them with.
#[derive(Debug, Clone)]
pub struct WebhookSecret(SecretString);

impl WebhookSecret {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::CannotSeal`] when the system gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; SECRET_LEN]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| Error::CannotSeal)?;
        Ok(Self(format!("{PREFIX}{}", BASE64_STANDARD.encode(bytes.as_slice())).into()))
    }

    /// One that was made before.
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// As its owner gets it: `whsec_` and base64.
    pub fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }

    /// One signature, for the header `webhook-signature`. `id` and `timestamp`, in seconds since 1970, are what the other
    /// headers say.
    ///
    /// # Errors
    /// [`Error::CannotOpen`] when this is no secret.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Result<String, Error> {
        let text = self.expose_secret();
        let key = BASE64_STANDARD.decode(text.strip_prefix(PREFIX).unwrap_or(text)).map_err(|_| Error::CannotOpen)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &Zeroizing::new(key));
        let mut signing = hmac::Context::with_key(&key);
        signing.update(format!("{id}.{timestamp}.").as_bytes());
        signing.update(body);
        Ok(format!("v1,{}", BASE64_STANDARD.encode(signing.sign())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standards_own_example() {
        // Source: the test of the standard's reference library.
        let secret = WebhookSecret::from_text("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signature = secret.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body).unwrap();
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn a_new_secret_is_long_enough_unlike_all_others_and_not_shown_by_accident() {
        let secret = WebhookSecret::generate().unwrap();
        let key = BASE64_STANDARD.decode(secret.expose_secret().strip_prefix("whsec_").unwrap()).unwrap();
        assert!((24..=64).contains(&key.len()));
        assert_ne!(secret.expose_secret(), WebhookSecret::generate().unwrap().expose_secret());
        assert!(!format!("{secret:?}").contains("whsec_"));
        assert!(WebhookSecret::from_text("whsec_?").sign("x", 0, b"").is_err());
    }
}
