//! Ciphers with keys of the configuration file (`storage/value/encrypt/{aes,secretbox}`).

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{KeyInit, XSalsa20Poly1305};

/// Bytes of a nonce of AES-GCM.
pub(super) const GCM_NONCE: usize = 12;
const CBC_BLOCK: usize = 16;
const SECRETBOX_NONCE: usize = 24;

const TOO_SHORT: &str = "the stored data was shorter than the required size";

/// A cipher with its key.
pub enum Cipher {
    /// AES-GCM: nonce, ciphertext, tag; the storage key is associated data.
    Gcm(LessSafeKey),
    /// AES-CBC: initialization vector, ciphertext with PKCS#7 padding.
    Cbc(Box<(PaddedBlockEncryptingKey, PaddedBlockDecryptingKey)>),
    /// XSalsa20-Poly1305 as NaCl has it: nonce, tag, ciphertext.
    Secretbox(Box<XSalsa20Poly1305>),
}

impl Cipher {
    /// AES-GCM with a key of 16, 24 or 32 bytes.
    pub fn gcm(key: &[u8]) -> Result<Self, String> {
        let algorithm = match key.len() {
            16 => &aead::AES_128_GCM,
            24 => &aead::AES_192_GCM,
            32 => &aead::AES_256_GCM,
            other => return Err(format!("crypto/aes: invalid key size {other}")),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| "the key is not usable".to_owned())?;
        Ok(Cipher::Gcm(LessSafeKey::new(key)))
    }

    /// AES-CBC with a key of 16, 24 or 32 bytes.
    pub fn cbc(key: &[u8]) -> Result<Self, String> {
        let algorithm = match key.len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            32 => &cipher::AES_256,
            other => return Err(format!("crypto/aes: invalid key size {other}")),
        };
        let unusable = |_| "the key is not usable".to_owned();
        let unbound = || UnboundCipherKey::new(algorithm, key).map_err(unusable);
        let seal = PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?).map_err(unusable)?;
        let open = PaddedBlockDecryptingKey::cbc_pkcs7(unbound()?).map_err(unusable)?;
        Ok(Cipher::Cbc(Box::new((seal, open))))
    }

    /// Secretbox with a key of 32 bytes.
    pub fn secretbox(key: &[u8]) -> Result<Self, String> {
        let cipher = XSalsa20Poly1305::new_from_slice(key);
        let cipher = cipher.map_err(|_| format!("expected key size 32 for secretbox provider, got {}", key.len()))?;
        Ok(Cipher::Secretbox(Box::new(cipher)))
    }

    /// Encrypts; `aad` is bound to the value where the cipher can.
    pub fn seal(&self, aad: &[u8], clear: &[u8]) -> Result<Vec<u8>, String> {
        let failed = || "failed to encrypt".to_owned();
        match self {
            Cipher::Gcm(key) => {
                let nonce: [u8; GCM_NONCE] = random()?;
                let mut body = clear.to_vec();
                let sealing = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_append_tag(sealing, Aad::from(aad), &mut body).map_err(|_| failed())?;
                Ok([&nonce[..], &body].concat())
            }
            Cipher::Cbc(keys) => {
                let mut body = clear.to_vec();
                let context = keys.0.encrypt(&mut body).map_err(|_| failed())?;
                let DecryptionContext::Iv128(iv) = context else { return Err(failed()) };
                Ok([&iv.as_ref()[..], &body].concat())
            }
            Cipher::Secretbox(cipher) => {
                let nonce: [u8; SECRETBOX_NONCE] = random()?;
                let body = cipher.encrypt(&nonce.into(), clear).map_err(|_| failed())?;
                Ok([&nonce[..], &body].concat())
            }
        }
    }

    /// Decrypts.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Cipher::Gcm(key) => {
                let (nonce, body) = sealed.split_first_chunk::<GCM_NONCE>().ok_or(TOO_SHORT)?;
                let mut body = body.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let opened = key.open_in_place(nonce, Aad::from(aad), &mut body);
                let length = opened.map_err(|_| "cipher: message authentication failed".to_owned())?.len();
                body.truncate(length);
                Ok(body)
            }
            Cipher::Cbc(keys) => {
                let (iv, body) = sealed.split_first_chunk::<CBC_BLOCK>().ok_or(TOO_SHORT)?;
                if body.is_empty() || body.len() % CBC_BLOCK != 0 {
                    return Err("the stored data is not a multiple of the block size".into());
                }
                let mut body = body.to_vec();
                let context = DecryptionContext::Iv128(FixedLength::from(*iv));
                let opened = keys.1.decrypt(&mut body, context).map_err(|_| "invalid padding on input".to_owned())?;
                let length = opened.len();
                body.truncate(length);
                Ok(body)
            }
            Cipher::Secretbox(cipher) => {
                let (nonce, body) = sealed.split_first_chunk::<SECRETBOX_NONCE>().ok_or(TOO_SHORT)?;
                cipher
                    .decrypt(&(*nonce).into(), body)
                    .map_err(|_| "output array was not large enough for encryption".into())
            }
        }
    }
}

/// Random bytes of the system's generator.
pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "no random bytes".to_owned())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
        digits.chunks(2).map(|p| u8::from_str_radix(&p.iter().collect::<String>(), 16).expect("hex")).collect()
    }

    #[test]
    fn what_is_sealed_is_opened_with_the_same_key_only() {
        type Make = fn(&[u8]) -> Result<Cipher, String>;
        let make: [Make; 3] = [Cipher::gcm, Cipher::cbc, Cipher::secretbox];
        for (i, make) in make.iter().enumerate() {
            for length in [16, 24, 32] {
                let Ok(cipher) = make(&vec![7; length]) else {
                    assert!(i == 2 && length != 32);
                    continue;
                };
                for clear in [&b""[..], b"a", b"sixteen bytes ok", &[9; 5000]] {
                    let sealed = cipher.seal(b"key", clear).expect("sealed");
                    assert_ne!(sealed, cipher.seal(b"key", clear).expect("sealed"), "never the same twice");
                    assert_eq!(cipher.open(b"key", &sealed).expect("opened"), clear);
                    let other = make(&vec![8; length]).expect("cipher").open(b"key", &sealed);
                    assert!(other.map_or(true, |o| o != clear));
                    assert!(cipher.open(b"key", &sealed[..10]).is_err());
                    if i == 0 {
                        assert!(cipher.open(b"another", &sealed).is_err(), "the key is bound to the value");
                    }
                }
            }
            assert!(make(&[1; 5]).is_err());
        }
    }

    /// The test vector of NaCl (`tests/secretbox.c`) with its zero padding taken off.
    #[test]
    fn secretbox_is_nacls() {
        let key = bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = bytes("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let clear = bytes(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01\
             233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4\
             924ca1c60902e52f0a089bc76897040e082f937763848645e0705",
        );
        let boxed = bytes(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c\
             98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeab\
             d6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5",
        );
        let cipher = Cipher::secretbox(&key).expect("cipher");
        assert_eq!(cipher.open(b"", &[nonce, boxed].concat()).expect("opened"), clear);
    }
}
