use rust_host_engine::{Archive, Description, ErrorKind};
use std::path::{Path, PathBuf};

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../backends/torch/tests/data/{name}.torchscript")),
    )
    .unwrap()
}

fn open(bytes: Vec<u8>) -> rust_host_engine::Result<Archive> {
    Archive::from_bytes(Path::new("m.pt"), bytes.into())
}

fn refused(bytes: Vec<u8>) -> String {
    let Err(e) = open(bytes) else { panic!("it was opened") };
    assert!(e.message.starts_with("`m.pt`: ") && e.message.lines().count() == 1, "{e}");
    assert_eq!(e.kind, ErrorKind::InvalidModel);
    format!("{} | {}", e.message, e.hint.unwrap_or_default())
}

#[test]
fn an_archive_is_described_without_libtorch() {
    let about = Description::read(&open(sample("types")).unwrap()).unwrap();
    let forward = about.forward().unwrap().to_string();
    assert!(
        forward.starts_with("forward(t: Tensor, i: int, f: float, b: bool, s: str, o: Optional[Tensor], li: List[int]"),
        "{forward}"
    );
    assert!(about.operators.contains(&"aten::add".to_owned()));
    let about = Description::read(&open(sample("aliases")).unwrap()).unwrap();
    assert_eq!(about.tensors.len(), 1);
    let weight = &about.tensors[0];
    assert_eq!(
        (weight.name.as_str(), weight.storage.as_str(), &weight.shape[..], weight.parameter),
        ("weight", "Float", &[4i64][..], true)
    );
    assert_eq!(about.class, "__torch__.Aliases");
}

#[test]
fn defaults_are_read_from_the_code() {
    let about = Description::read(&open(sample("defaults")).unwrap()).unwrap();
    assert_eq!(
        about.forward().unwrap().to_string(),
        "forward(x: Tensor, mask: Optional[Tensor] = None, power: int = 2, bias: float = 0.25) -> Tensor"
    );
}

#[test]
fn an_archive_that_was_cut_off_anywhere_is_refused() {
    let whole = sample("types");
    for part in 0..20 {
        let at = whole.len() * part / 20;
        let said = if at == 0 { continue } else { refused(whole[..at].to_vec()) };
        assert!(said.contains("damaged"), "{at}: {said}");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused_or_changes_nothing() {
    let whole = sample("aliases");
    let original = open(whole.clone()).unwrap();
    for bit in 0..8 * whole.len() {
        let at = bit / 8;
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (bit % 8);
        let Ok(archive) = open(bytes) else { continue };
        // What still opens must hold the same members: the flip was in padding, a date or a version.
        let same =
            original.members().all(|(name, _)| archive.member(name).ok().flatten() == original.member(name).unwrap());
        assert!(same && archive.members().count() == original.members().count(), "byte {at} was not noticed");
    }
}

#[test]
fn a_member_that_is_marked_as_a_folder_is_refused() {
    let mut bytes = sample("aliases");
    let entry = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    bytes[entry + 38] |= 0x10;
    assert!(refused(bytes).contains("is marked as a folder"));
}

#[test]
fn other_kinds_of_files_are_named() {
    for (bytes, word) in [
        (b"hello".to_vec(), "not a zip"),
        (b"<html>".to_vec(), "HTML"),
        (b"\x80\x02}q\x00.".to_vec(), "pickle"),
        (b"\x08\x07\x12\x07pytorch".to_vec(), "ONNX"),
        (b"\x40\0\0\0\0\0\0\0{\"w\":{}}".to_vec(), "safetensors"),
        (b"\x89HDF\r\n\x1a\n".to_vec(), "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1".to_vec(), "Git LFS"),
        (b"\x1f\x8b\x08".to_vec(), "gzip"),
        (b"PK\x03\x04".to_vec(), "damaged"),
    ] {
        let said = refused(bytes);
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn missing_files_folders_and_empty_files_are_named() {
    let error = |path: &Path| match Archive::open(path) {
        Err(e) => e,
        Ok(_) => panic!("{} was opened", path.display()),
    };
    let e = error(Path::new("/nowhere/m.pt"));
    assert_eq!(
        (e.kind, e.message.as_str()),
        (ErrorKind::NotFound, "`/nowhere/m.pt`: cannot open: no such file or folder")
    );
    assert!(error(Path::new(env!("CARGO_MANIFEST_DIR"))).message.contains("is a folder"));
    let empty = std::env::temp_dir().join(format!("rust-host-empty-{}", std::process::id()));
    std::fs::write(&empty, b"").unwrap();
    let e = error(&empty);
    std::fs::remove_file(&empty).unwrap();
    assert!(e.message.contains("is empty"));
}

/// The bytes with one text in place of another of the same length, wherever it is; names have no checksum.
fn renamed(mut bytes: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let places: Vec<usize> = (0..bytes.len() - old.len()).filter(|&i| bytes[i..].starts_with(old.as_bytes())).collect();
    assert!(places.len() >= 2);
    places.iter().for_each(|&i| bytes[i..i + new.len()].copy_from_slice(new.as_bytes()));
    bytes
}

#[test]
fn members_that_libtorch_would_find_under_another_spelling_are_refused() {
    for (old, new) in [
        ("/code/__torch__.py", "/CODE/__torch__.py"),
        ("/code/__torch__.py", "/code/__torch__.PY"),
        ("/constants.pkl", "/Constants.pkl"),
        ("/byteorder", "/ByteOrder"),
        ("/byteorder", "/modeljson"),
    ] {
        let bytes = renamed(sample("aliases"), old, new);
        assert_eq!(open(bytes).is_ok(), new == "/modeljson", "{new}");
    }
}

#[test]
fn a_comment_cannot_be_a_second_end_record() {
    let mut bytes = sample("aliases");
    let at = bytes.len() - 2;
    let comment = [&b"PK\x05\x06"[..], &[0; 19]].concat();
    bytes[at..].copy_from_slice(&(comment.len() as u16).to_le_bytes());
    let plain = [&bytes[..], &[b'a'; 23]].concat();
    open(plain).unwrap();
    assert!(refused([bytes, comment].concat()).contains("end record"));
}
