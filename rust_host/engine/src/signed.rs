//! Whether a file is one that the owner of a key published. Beside the files of a version lies `manifest.json` with the SHA-256
//! of each, and `manifest.json.sig`, the manifest's Ed25519 signature; `py-authoring publish --key` writes both, and
//! `openssl pkeyutl -verify -rawin` checks the same.
//!
//! In: public keys, the path of a model and the bytes that were read from there. Out: nothing, or one sentence. A signature
//! says who made a file; whether native code may run is still for [`crate::trust`] to say.

use crate::{Error, ErrorKind, Result, file, trust};
use ed25519_dalek::{Signature, VerifyingKey, pkcs8::DecodePublicKey};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    env, fs,
    io::Read,
    path::{Path, PathBuf},
};

/// What lies beside the files of a published version.
pub const MANIFEST: &str = "manifest.json";
/// Its signature: 64 bytes.
pub const SIGNATURE: &str = "manifest.json.sig";
/// Names a file of public keys for every command and every `rust_host.Model`; an argument goes before it.
pub const VARIABLE: &str = "RUST_HOST_REQUIRE_SIGNED";
/// A manifest names a handful of files.
const LARGEST: u64 = 1 << 20;
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

#[derive(Deserialize)]
struct Manifest {
    /// Version of this format.
    manifest: u64,
    name: String,
    version: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    sha256: String,
}

/// Whose signature counts: the keys of one file, any of them.
#[derive(Debug, Clone)]
pub struct PublicKeys {
    file: PathBuf,
    keys: Vec<VerifyingKey>,
}

impl PublicKeys {
    /// Reads the public keys of a PEM file, as `openssl pkey -pubout` writes one; several may stand one after another.
    ///
    /// # Errors
    /// What [`file::read`] says; `InvalidInput` if there is no Ed25519 public key in it.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = file::read(path, ErrorKind::InvalidInput)?;
        let wrong = |what: &str| {
            Error::invalid_input(format!("`{}` {what}", path.display()))
                .hint("`openssl pkey -in KEY.pem -pubout -out KEY.pub` writes the public key of a private one")
        };
        let text = String::from_utf8(bytes).map_err(|_| wrong("is no PEM file"))?;
        if text.contains("PRIVATE KEY-----") {
            return Err(wrong("holds a private key, which no host should have; expected the public one"));
        }
        let mut keys = Vec::new();
        for block in text.split(BEGIN).skip(1) {
            let (body, _) = block.split_once(END).ok_or_else(|| wrong("holds a public key without its end"))?;
            let pem = format!("{BEGIN}{}{END}\n", body.replace('\r', ""));
            let key = VerifyingKey::from_public_key_pem(&pem)
                .map_err(|e| wrong(&format!("holds a public key that is not of Ed25519, or damaged: {e}")))?;
            keys.push(key);
        }
        match keys.is_empty() {
            true => Err(wrong(&format!("holds no public key, expected `{BEGIN}`"))),
            false => Ok(Self { file: path.to_owned(), keys }),
        }
    }

    /// The keys that a door must ask for: of the file that was named, else of the one that [`VARIABLE`] names; `None` where
    /// nobody asks for any.
    ///
    /// # Errors
    /// As [`PublicKeys::read`]; `InvalidInput` for a variable that is set and empty.
    pub fn required(named: Option<&Path>) -> Result<Option<Self>> {
        let variable = env::var_os(VARIABLE);
        let of_all = || match &variable {
            Some(path) if path.is_empty() => Err(Error::invalid_input(format!("`{VARIABLE}` is set and empty"))
                .hint("name a file of public keys, or unset it")),
            path => Ok(path.as_deref().map(Path::new)),
        };
        let path = if named.is_some() { named } else { of_all()? };
        path.map(Self::read).transpose()
    }

    /// Whether these bytes, read from that path, are what one of the keys signed.
    ///
    /// # Errors
    /// `Refused` with what is missing or different.
    pub fn check(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = whole.parent().unwrap_or(Path::new("/"));
        let shown = path.display();
        let refused = |what: String| Error::new(ErrorKind::Refused, format!("`{shown}`: {what}"));
        let manifest_path = folder.join(MANIFEST);
        let manifest_shown = format!("`{}`", manifest_path.display());
        let missing = |name: &str| {
            refused(format!("it is not signed: there is no `{name}` beside it"))
                .hint("`py-authoring publish NAME --to DIR --key KEY.pem` writes a signed copy")
        };
        let text = small(&manifest_path)?.ok_or_else(|| missing(MANIFEST))?;
        let signature = small(&folder.join(SIGNATURE))?.ok_or_else(|| missing(SIGNATURE))?;
        let signature = Signature::from_slice(&signature)
            .map_err(|_| refused(format!("its `{SIGNATURE}` has {} bytes, a signature has 64", signature.len())))?;
        // Strict: no signature but the one that the key's owner made passes.
        if !self.keys.iter().any(|key| key.verify_strict(&text, &signature).is_ok()) {
            let key = self.file.display();
            return Err(refused(format!(
                "{manifest_shown} was changed after it was signed, or signed by another key than that of `{key}`"
            )));
        }
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|e| refused(format!("{manifest_shown} is signed, but no manifest that this host reads: {e}")))?;
        if manifest.manifest != 1 {
            return Err(refused(format!(
                "{manifest_shown} has format {}, this host reads format 1",
                manifest.manifest
            ))
            .hint("a newer py-authoring wrote it"));
        }
        if let Some(name) = manifest.files.keys().find(|name| !is_plain(name)) {
            return Err(refused(format!("{manifest_shown} names `{name}`, which is no file beside it")));
        }
        // Another model, or an older version in the place of a newer one, is signed too; a link can put it there as well.
        let given = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        for place in [given.parent().unwrap_or(folder), folder] {
            let (of, version) = (&manifest.name, manifest.version);
            let Some(number) = named(Some(place)).and_then(|name| name.parse::<u64>().ok()) else { continue };
            let model = named(place.parent()).unwrap_or_default();
            if number != version || model != of {
                return Err(refused(format!(
                    "it lies in the folder of version {number} of `{model}`, and is signed as version {version} of `{of}`"
                )));
            }
        }
        let name = whole.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let entry = manifest.files.get(name).ok_or_else(|| {
            let listed: Vec<_> = manifest.files.keys().map(|name| format!("`{name}`")).collect();
            refused(format!("it is not in {manifest_shown}, which lists {}", listed.join(", ")))
        })?;
        let digest = trust::digest(bytes);
        match entry.sha256 == digest {
            true => Ok(()),
            false => Err(refused(format!(
                "it is not the file that was signed: its SHA-256 is {digest}, {manifest_shown} says {}",
                entry.sha256
            ))),
        }
    }
}

fn named(folder: Option<&Path>) -> Option<&str> {
    folder?.file_name()?.to_str()
}

fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0'])
}

/// A small file's bytes; `None` if it is not there.
fn small(path: &Path) -> Result<Option<Vec<u8>>> {
    if !fs::exists(path).unwrap_or(true) {
        return Ok(None);
    }
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let shown = path.display();
        return Err(Error::new(ErrorKind::Refused, format!("`{shown}` is no file"))); // opening a pipe waits for ever
    }
    let mut bytes = Vec::new();
    let file = file::open(path, ErrorKind::Refused)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    if bytes.len() as u64 > LARGEST {
        let shown = path.display();
        return Err(Error::new(ErrorKind::Refused, format!("`{shown}` is larger than {LARGEST} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey, pkcs8::EncodePublicKey, pkcs8::spki::der::pem::LineEnding};
    use tempfile::TempDir;

    /// A signed version `DIR/mnist/3` with `model.pt`, and the keys that it needs.
    struct Published {
        folder: TempDir,
        keys: PublicKeys,
    }

    const MODEL: &[u8] = b"weights";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn pem(seed: u8) -> String {
        key(seed).verifying_key().to_public_key_pem(LineEnding::LF).unwrap()
    }

    impl Published {
        fn new(manifest: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("mnist/3")).unwrap();
            fs::write(folder.path().join("key.pub"), pem(7)).unwrap();
            let keys = PublicKeys::read(&folder.path().join("key.pub")).unwrap();
            let published = Self { folder, keys };
            published.write("model.pt", MODEL);
            published.write(MANIFEST, manifest.as_bytes());
            published.write(SIGNATURE, &key(7).sign(manifest.as_bytes()).to_bytes());
            published
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join("mnist/3").join(name)
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            fs::write(self.path(name), bytes).unwrap();
        }

        fn refusal(&self, name: &str) -> String {
            let path = self.path(name);
            let e = self.keys.check(&path, &fs::read(&path).unwrap()).unwrap_err();
            assert_eq!((e.kind, e.message.lines().count()), (ErrorKind::Refused, 1), "{e}");
            e.message
        }
    }

    fn manifest(version: u64, name: &str, sha256: &str) -> String {
        format!(
            "{{\"manifest\": 1, \"name\": \"mnist\", \"version\": {version}, \"files\": {{\"{name}\": {{\"sha256\": \"{sha256}\", \"size\": 7}}}}}}\n"
        )
    }

    fn good() -> String {
        manifest(3, "model.pt", &trust::digest(MODEL))
    }

    #[test]
    fn what_the_key_signed_passes_through_a_link_too() {
        let published = Published::new(&good());
        published.keys.check(&published.path("model.pt"), MODEL).unwrap();
        let link = published.folder.path().join("current.pt");
        std::os::unix::fs::symlink(published.path("model.pt"), &link).unwrap();
        published.keys.check(&link, MODEL).unwrap();
    }

    #[test]
    fn an_older_version_or_another_model_is_refused_in_the_place_of_one_however_it_came_there() {
        let published = Published::new(&good());
        let top = published.folder.path();
        std::os::unix::fs::symlink("3", top.join("mnist/4")).unwrap();
        fs::create_dir_all(top.join("mnist/5")).unwrap();
        std::os::unix::fs::symlink("../3/model.pt", top.join("mnist/5/model.pt")).unwrap();
        fs::create_dir(top.join("faces")).unwrap();
        std::os::unix::fs::symlink("../mnist/3", top.join("faces/3")).unwrap();
        for (place, said) in
            [("mnist/4", "version 4 of `mnist`"), ("mnist/5", "version 5"), ("faces/3", "3 of `faces`")]
        {
            let e = published.keys.check(&top.join(place).join("model.pt"), MODEL).unwrap_err();
            assert!(e.message.contains(said) && e.message.contains("signed as version 3 of `mnist`"), "{e}");
        }
        fs::rename(top.join("mnist"), top.join("tsinm")).unwrap();
        let e = published.keys.check(&top.join("tsinm/3/model.pt"), MODEL).unwrap_err();
        assert!(e.message.contains("version 3 of `tsinm`"), "{e}");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let published = Published::new(&good());
        fs::remove_file(published.path(MANIFEST)).unwrap();
        fs::create_dir(published.path(MANIFEST)).unwrap();
        assert!(published.refusal("model.pt").contains("manifest.json` is no file"));
    }

    #[test]
    fn whatever_was_changed_is_said() {
        let published = Published::new(&good());
        published.write("model.pt", b"Weights");
        let said = published.refusal("model.pt");
        assert!(said.contains("not the file that was signed") && said.contains(&trust::digest(MODEL)), "{said}");
        published.write("model.onnx", MODEL);
        let said = published.refusal("model.onnx");
        assert!(said.contains("not in `") && said.contains("lists `model.pt`"), "{said}");
        published.write(MANIFEST, good().replace("mnist", "tsinm").as_bytes());
        assert!(published.refusal("model.pt").contains("changed after it was signed, or signed by another key"));
        for length in [0, 63, 65] {
            published.write(SIGNATURE, &vec![1; length]);
            assert!(published.refusal("model.pt").contains(&format!("has {length} bytes")));
        }
        fs::remove_file(published.path(SIGNATURE)).unwrap();
        assert!(published.refusal("model.pt").contains("no `manifest.json.sig`"));
        fs::remove_file(published.path(MANIFEST)).unwrap();
        assert!(published.refusal("model.pt").contains("no `manifest.json` beside it"));
    }

    #[test]
    fn another_key_is_refused_and_any_of_several_will_do() {
        let mut published = Published::new(&good());
        let file = published.folder.path().join("keys.pub");
        for (text, passes) in
            [(pem(8), false), (format!("{}\r\n{}", pem(8), pem(7)), true), (pem(7).replace('\n', "\r\n"), true)]
        {
            fs::write(&file, text).unwrap();
            published.keys = PublicKeys::read(&file).unwrap();
            assert_eq!(published.keys.check(&published.path("model.pt"), MODEL).is_ok(), passes);
        }
    }

    #[test]
    fn a_signed_manifest_that_says_something_else_is_refused() {
        let digest = trust::digest(MODEL);
        for (text, said) in [
            (manifest(2, "model.pt", &digest), "folder of version 3 of `mnist`, and is signed as version 2 of `mnist`"),
            (manifest(3, "../x", &digest), "names `../x`, which is no file beside it"),
            (manifest(3, "..", &digest), "names `..`"),
            (manifest(3, "model.pt", &digest.to_uppercase()), "not the file that was signed"),
            (good().replace("\"manifest\": 1", "\"manifest\": 2"), "format 2, this host reads format 1"),
            ("{}".to_owned(), "no manifest that this host reads: missing field `manifest`"),
            ("[1".to_owned(), "no manifest that this host reads"),
            ("x".repeat(1 << 20) + "x", "is larger than"),
        ] {
            let published = Published::new(&text);
            let told = published.refusal("model.pt");
            assert!(told.contains(said), "{told}");
        }
    }

    #[test]
    fn a_file_that_holds_no_public_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pub");
        let read = || PublicKeys::read(&path).unwrap_err();
        assert_eq!(read().kind, ErrorKind::NotFound);
        let cut = pem(7).replace(END, "");
        let rsa = format!("{BEGIN}\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK8=\n{END}\n");
        for (text, said) in [
            ("ssh-ed25519 AAAA", "holds no public key"),
            ("-----BEGIN PRIVATE KEY-----", "holds a private key"),
            (cut.as_str(), "without its end"),
            (rsa.as_str(), "not of Ed25519, or damaged"),
        ] {
            fs::write(&path, text).unwrap();
            let e = read();
            assert!(e.message.contains(said) && e.message.contains("key.pub"), "{e}");
            assert_eq!((e.kind, e.message.lines().count()), (ErrorKind::InvalidInput, 1));
        }
    }
}
