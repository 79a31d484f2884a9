//! Tokens that say something and cannot be made by others: a public part, a sealed part, and an HMAC-SHA256 over both.
//! Their keys are derived from the master keys, so a token lives as long as the master key it was signed under.

use aws_lc_rs::{hkdf, hmac};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::zeroize::Zeroizing;

use super::{Error, KEY_LEN, MasterKey, Vault, open, seal};

/// Begins every token; another layout will have another number.
const VERSION: u8 = 1;
const TAG_LEN: usize = 32;
/// Longer than any token we make.
const MAX_TOKEN: usize = 2048;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Anybody who has the token can read it.
    pub public: Vec<u8>,
    /// Only we can.
    pub private: Vec<u8>,
}

struct Keys {
    signing: hmac::Key,
    sealing: Zeroizing<[u8; KEY_LEN]>,
}

impl Vault {
    /// A token that says `said`, in the letters of base64url. `purpose` is a constant; a token opens under no other.
    ///
    /// # Errors
    /// [`Error::CannotSeal`] when the system gives no randomness, or the public part has more than 255 bytes.
    pub fn sign(&self, purpose: &str, said: &Said) -> Result<String, Error> {
        let keys = derive(&self.keys[0], purpose)?;
        let length = u8::try_from(said.public.len()).map_err(|_| Error::CannotSeal)?;
        let mut token = vec![VERSION, length];
        token.extend_from_slice(&said.public);
        token.extend(seal(&keys.sealing, &[purpose], &said.private)?);
        let tag = hmac::sign(&keys.signing, &token);
        token.extend_from_slice(tag.as_ref());
        Ok(BASE64_URL_SAFE_NO_PAD.encode(token))
    }

    /// What a token says; `None` when it was not signed here for this purpose, by whatever master key. The tag is
    /// compared in constant time.
    pub fn verify(&self, purpose: &str, token: &str) -> Option<Said> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let token = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (said, tag) = token.split_at_checked(token.len().checked_sub(TAG_LEN)?)?;
        let signers = self.keys.iter().filter_map(|master| derive(master, purpose).ok());
        let keys = signers.into_iter().find(|keys| hmac::verify(&keys.signing, said, tag).is_ok())?;
        let [VERSION, length, rest @ ..] = said else { return None };
        let (public, private) = rest.split_at_checked(usize::from(*length))?;
        let private = open(&keys.sealing, &[purpose], private).ok()?;
        Some(Said { public: public.to_vec(), private: private.to_vec() })
    }
}

/// The keys of one purpose, by HKDF-SHA256 from a master key.
fn derive(master: &MasterKey, purpose: &str) -> Result<Keys, Error> {
    let failed = |_| Error::CannotSeal;
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"headgate tokens v1");
    let derived = salt.extract(master.bytes.as_slice());
    let (sign, seal) = ([b"sign\0", purpose.as_bytes()], [b"seal\0", purpose.as_bytes()]);
    let signing = hmac::Key::from(derived.expand(&sign, hmac::HMAC_SHA256).map_err(failed)?);
    let mut sealing = Zeroizing::new([0; KEY_LEN]);
    let sealed = derived.expand(&seal, hkdf::HKDF_SHA256).map_err(failed)?;
    sealed.fill(sealing.as_mut_slice()).map_err(failed)?;
    Ok(Keys { signing, sealing })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(keys: &[u8]) -> Vault {
        Vault::new(keys.iter().map(|byte| [*byte; KEY_LEN]).collect()).unwrap()
    }

    fn said() -> Said {
        Said { public: b"which file".to_vec(), private: b"growth/crm-sync".to_vec() }
    }

    #[test]
    fn what_was_signed_is_read_back_and_the_private_part_is_hidden() {
        let token = vault(&[1]).sign("links", &said()).unwrap();
        assert_eq!(vault(&[1]).verify("links", &token), Some(said()));
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert!(bytes.windows(10).any(|window| window == b"which file"));
        assert!(!bytes.windows(6).any(|window| window == b"growth"));
    }

    #[test]
    fn a_token_lives_as_long_as_its_key_is_configured() {
        let token = vault(&[1]).sign("links", &said()).unwrap();
        assert_eq!(vault(&[2, 1]).verify("links", &token), Some(said()));
        assert_eq!(vault(&[2]).verify("links", &token), None);
        let new = vault(&[2, 1]).sign("links", &said()).unwrap();
        assert_eq!(vault(&[2]).verify("links", &new), Some(said()));
    }

    #[test]
    fn one_changed_bit_a_cut_or_another_purpose_is_refused() {
        let vault = vault(&[1]);
        let token = vault.sign("links", &said()).unwrap();
        assert_eq!(vault.verify("invitations", &token), None);
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&token).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert_eq!(vault.verify("links", &BASE64_URL_SAFE_NO_PAD.encode(changed)), None, "byte {index}");
            assert_eq!(vault.verify("links", &BASE64_URL_SAFE_NO_PAD.encode(&bytes[..index])), None, "cut at {index}");
        }
        for other in ["", "AQ", "not base64url!", &format!("{token}A"), &format!("{token}=="), &"A".repeat(5000)] {
            assert_eq!(vault.verify("links", other), None, "{other}");
        }
    }
}
