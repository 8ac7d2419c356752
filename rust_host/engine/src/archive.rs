//! A file → the parts of a model file of one [`Platform`], or a sentence that says what the file is instead.

use crate::{
    Bytes, Contract, Error, ErrorKind, Platform, Result, contract, file,
    onnx::{self, Onnx},
    signed::PublicKeys,
    zip::Zip,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::{borrow::Cow, path::Path, sync::Arc};

/// A model file in memory. Every member's checksum was compared when it was opened.
#[derive(Clone)]
pub struct Archive {
    path: std::path::PathBuf,
    bytes: Bytes,
    platform: Platform,
    content: Content,
    is_signed: bool,
}

/// How the file is put together.
#[derive(Clone)]
enum Content {
    /// Members in one top folder.
    Zip(Zip, String),
    /// A graph with notes.
    Onnx(Arc<Onnx>),
}

/// The newest archive format that this libtorch reads (`caffe2/serialize/versions.h`, kMaxSupportedFileFormatVersion).
const NEWEST_FORMAT: u64 = 10;

impl Archive {
    /// Reads the whole file once; everything after this, libtorch included, sees these bytes and not the path.
    ///
    /// # Errors
    /// `NotFound` or `Unavailable` if it cannot be read; `InvalidModel` if it is something else than a model file
    /// (said what, and how to make one of it), or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_signed(path, None)
    }

    /// The same; where there are keys, nothing of the file is looked at before one of them has signed its bytes.
    ///
    /// # Errors
    /// As [`Archive::open`] and [`PublicKeys::check`].
    pub fn open_signed(path: &Path, signed_by: Option<&PublicKeys>) -> Result<Self> {
        let bytes = file::read(path, ErrorKind::InvalidModel).map_err(|e| match path.is_dir() {
            true => e.hint(format!("`{}/model.pt`, if that is where the model lies", path.display())),
            false => e,
        })?;
        if let Some(keys) = signed_by {
            keys.check(path, &bytes)?;
        }
        Ok(Self { is_signed: signed_by.is_some(), ..Self::from_bytes(path, bytes.into())? })
    }

    /// The same for bytes that are in memory; `path` is for messages.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self> {
        let shown = path.display();
        let at = |e: Error| Error { message: format!("`{shown}`: {}", e.message), ..e };
        if !bytes.starts_with(b"PK\x03\x04") {
            let onnx = Arc::new(read_onnx(path, &bytes).map_err(at)?);
            let (platform, content) = (Platform::Onnx, Content::Onnx(onnx));
            return Ok(Self::of_parts(path, bytes, platform, content));
        }
        let zip = Zip::open(bytes.clone()).map_err(at)?;
        let (platform, stem) = find_stem(&zip).map_err(at)?;
        if platform == Platform::TorchScript {
            refuse_other_spellings(&zip, &stem).map_err(at)?;
        }
        for member in zip.members() {
            zip.read(member).map_err(at)?;
        }
        let content = Content::Zip(zip, stem);
        let archive = Self::of_parts(path, bytes, platform, content);
        archive.check_format().map_err(at)?;
        Ok(archive)
    }

    /// A compiled package that is a part of the running program's own file ([`crate::attached`]). No checksum is compared: the
    /// digest of the whole is there for who asks.
    ///
    /// # Errors
    /// `InvalidModel` if it is no compiled package.
    pub fn of_this_program(path: &Path, bytes: Bytes) -> Result<Self> {
        let at = |e: Error| Error { message: format!("`{}`: {}", path.display(), e.message), ..e };
        let zip = Zip::open(bytes.clone()).map_err(at)?.without_checksums();
        match find_stem(&zip).map_err(at)? {
            (Platform::Compiled, stem) => {
                let content = Content::Zip(zip, stem);
                Ok(Self::of_parts(path, bytes, Platform::Compiled, content))
            }
            (other, _) => Err(at(Error::invalid_model(format!("it carries a {}, no compiled package", other.noun())))),
        }
    }

    fn of_parts(path: &Path, bytes: Bytes, platform: Platform, content: Content) -> Self {
        Self { path: path.to_owned(), bytes, platform, content, is_signed: false }
    }

    /// What runs it.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was opened with keys, one of which has signed these bytes.
    pub fn is_signed(&self) -> bool {
        self.is_signed
    }

    /// The whole file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// A member by its name below the top folder: `data.pkl`, `code/__torch__.py`; `None` if there is none.
    ///
    /// # Errors
    /// `InvalidModel` if it is damaged.
    pub fn member(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>> {
        let Content::Zip(zip, stem) = &self.content else { return Ok(None) };
        zip.find(&format!("{stem}/{name}")).map(|m| zip.read(m)).transpose()
    }

    /// Names and sizes of all members below the top folder.
    pub fn members(&self) -> impl Iterator<Item = (&str, u64)> {
        let (members, cut) = match &self.content {
            Content::Zip(zip, stem) => (zip.members(), stem.len() + 1),
            Content::Onnx(_) => (&[][..], 0),
        };
        members.iter().map(move |m| (m.name.get(cut..).unwrap_or(&m.name), m.size))
    }

    /// A file that was saved beside the model, by its name; `None` if there is none.
    ///
    /// # Errors
    /// `InvalidModel` if it is damaged.
    pub fn extra(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>> {
        if self.platform != Platform::Onnx {
            return self.member(&format!("extra/{name}"));
        }
        let damaged =
            || Error::invalid_model(format!("`{}`: its note `{GOLDEN_NOTE}` is no base64", self.path.display()));
        Ok(match name {
            "contract.json" => onnx::note(&self.bytes, CONTRACT_NOTE)?.map(Cow::Borrowed),
            "golden.safetensors" => onnx::note(&self.bytes, GOLDEN_NOTE)?
                .map(|text| BASE64_STANDARD.decode(text).map(Cow::Owned).map_err(|_| damaged()))
                .transpose()?,
            _ => None,
        })
    }

    /// What the graph of an ONNX file says; `None` for other files.
    pub fn onnx(&self) -> Option<&Onnx> {
        if let Content::Onnx(onnx) = &self.content { Some(onnx) } else { None }
    }

    /// Names and sizes of what was saved beside the model (`_extra_files` of `torch.jit.save`, `metadata_props` of ONNX).
    pub fn extra_files(&self) -> Vec<(String, u64)> {
        if let Content::Onnx(onnx) = &self.content {
            return onnx.notes.clone();
        }
        self.members().filter_map(|(n, s)| Some((n.strip_prefix("extra/")?.to_owned(), s))).collect()
    }

    /// The contract, if the file carries one.
    ///
    /// # Errors
    /// `InvalidContract` if it cannot be read or contradicts itself.
    pub fn contract(&self) -> Result<Option<Contract>> {
        let Some(json) = self.extra("contract.json")? else { return Ok(None) };
        let contract = contract::read(&json)
            .map_err(|e| Error { message: format!("`{}`: contract.json: {}", self.path.display(), e.message), ..e })?;
        if self.extra(&contract.golden.file)?.is_none() && contract.golden.count > 0 {
            return Err(Error::invalid_contract(format!(
                "`{}`: contract.json names the golden examples `{}`, which are not in the archive",
                self.path.display(),
                contract.golden.file
            )));
        }
        Ok(Some(contract))
    }

    /// Version of the archive format, where the file says one.
    pub fn format(&self) -> Result<Option<u64>> {
        if let Content::Onnx(onnx) = &self.content {
            return Ok(Some(onnx.ir_version));
        }
        let member = self.member("version")?.or(self.member(".data/version")?);
        Ok(member.and_then(|m| std::str::from_utf8(&m).ok()?.trim().parse().ok()))
    }

    fn check_format(&self) -> Result<()> {
        match self.format()? {
            Some(version) if version > NEWEST_FORMAT && self.platform == Platform::TorchScript => Err(Error::invalid_model(format!(
                "the archive has format version {version}, written by a newer torch; this host reads up to {NEWEST_FORMAT}"
            ))
            .hint("export it with the torch that this host was built for: `rust-host doctor` names it")),
            _ => Ok(()),
        }
    }
}

const SAVE: &str = "save it with `torch.jit.script(model.eval()).save(\"model.pt\")`";

/// Says what a file is that does not begin as a zip, where it is something known.
fn something_else(bytes: &[u8], expected: &str) -> Option<Error> {
    let head = &bytes[..bytes.len().min(512)];
    let text = std::str::from_utf8(head).unwrap_or_default().trim_start();
    let is = |what: &str, hint: &str| Some(Error::invalid_model(format!("{what}, expected {expected}")).hint(hint));
    let safetensors =
        head.len() > 9 && head[8] == b'{' && u64::from_le_bytes(head[..8].try_into().unwrap_or([0; 8])) < 100 << 20;
    match () {
        () if safetensors => is(
            "it is a safetensors file: weights without a model",
            "load the weights into the model in Python (`safetensors.torch.load_file`), then `torch.jit.script(model).save(\"model.pt\")`",
        ),
        () if head.get(4..8) == Some(b"PTMF") => is("it is a mobile flatbuffer of PyTorch", SAVE),
        () if head.get(4..8) == Some(b"ORTM") => {
            is("it is a model in ONNX Runtime's own format (.ort)", "give the ONNX file that it was made of")
        }
        () if head.starts_with(b"\x89HDF\r\n") => {
            is("it is an HDF5 file, as Keras writes them", "export the model from PyTorch")
        }
        () if head.starts_with(b"GGUF") => is("it is a GGUF file", "export the model from PyTorch"),
        () if head.starts_with(b"\x80") => is(
            "it is a pickle, as `torch.save` wrote them before torch 1.6",
            "in Python: `model = torch.load(FILE, weights_only=False)` if you trust it, then `torch.jit.script(model).save(\"model.pt\")`",
        ),
        () if text.starts_with('<') => is("it is an HTML or XML page", "download the file itself"),
        () if text.starts_with("version https://git-lfs") => {
            is("it is a Git LFS pointer", "`git lfs pull` fetches the file")
        }
        () if head.starts_with(b"\x1f\x8b") => is("it is a gzip file", "unpack it first: `gunzip`"),
        () => None,
    }
}

/// The notes of an ONNX file that are its contract and its golden examples, these in base64.
const CONTRACT_NOTE: &str = "rust_host.contract";
const GOLDEN_NOTE: &str = "rust_host.golden";

/// ONNX has no mark of its own: a file that begins as exporters write it, or one of that ending which can be read.
fn read_onnx(path: &Path, bytes: &[u8]) -> Result<Onnx> {
    // ONNX Runtime looks for this mark before it takes a file for ONNX, and runs what follows without our having read it.
    if bytes.get(4..8) == Some(b"ORTM") {
        return Err(something_else(bytes, "an ONNX file").unwrap_or_else(|| {
            Error::invalid_model("it has the mark of ONNX Runtime's own format (.ort), expected an ONNX file")
        }));
    }
    let is_named_so = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    match (onnx::seems_to_be(bytes), is_named_so) {
        (true, _) => Onnx::read(bytes),
        (false, true) => Onnx::read(bytes).map_err(|e| something_else(bytes, "an ONNX file").unwrap_or(e)),
        (false, false) => Err(something_else(bytes, TORCHSCRIPT)
            .unwrap_or_else(|| Error::invalid_model(format!("it is not a zip, expected {TORCHSCRIPT}")).hint(SAVE))),
    }
}

const TORCHSCRIPT: &str = "a TorchScript archive";

/// What the archive holds, and the one top folder that torch writes everything into.
fn find_stem(zip: &Zip) -> Result<(Platform, String)> {
    let names: Vec<&str> = zip.members().iter().map(|m| m.name.as_str()).collect();
    let stem = names.first().and_then(|n| n.split_once('/')).map(|(top, _)| top.to_owned());
    let has = |suffix: &str| names.iter().any(|n| n.split_once('/').is_some_and(|(_, rest)| rest == suffix));
    let other = |what: &str, hint: &str| {
        Err(Error::invalid_model(format!("{what}, expected a TorchScript archive")).hint(hint))
    };
    if names.iter().any(|n| *n == "data.pkl" || *n == "constants.pkl") {
        return other(
            "it is a TorchScript archive that was unpacked and zipped again without its top folder",
            "zip the folder itself: `zip -r -0 model.pt model/`",
        );
    }
    if names.contains(&"model.weights.h5") || names.contains(&"config.json") && names.contains(&"metadata.json") {
        return other("it is a Keras file", "export the model from PyTorch");
    }
    let in_one_folder = |platform: Platform| {
        let stem = stem.clone().unwrap_or_default();
        match names.iter().find(|n| n.split_once('/').is_none_or(|(top, _)| top != stem)) {
            Some(odd) => {
                Err(Error::invalid_model(format!("the archive is damaged: `{odd}` lies outside its folder `{stem}`")))
            }
            None => Ok((platform, stem)),
        }
    };
    if has("constants.pkl") && has("data.pkl") {
        return in_one_folder(Platform::TorchScript);
    }
    if names.iter().any(|n| n.contains("/data/aotinductor/") && n.ends_with(".so")) {
        return in_one_folder(Platform::Compiled);
    }
    if names.iter().any(|n| n.ends_with("archive_format") || n.ends_with("serialized_exported_program.json")) {
        return other(
            "it is a program of `torch.export` that was not compiled (.pt2)",
            "compile it with `torch._inductor.aoti_compile_and_package`, or save TorchScript: `torch.jit.script(model.eval()).save(\"model.pt\")`",
        );
    }
    if has("data.pkl") {
        return other(
            "it was written by `torch.save`: a state_dict (weights) or a pickled object without the model's code",
            "in Python: `model.load_state_dict(torch.load(FILE))`, then `torch.jit.script(model.eval()).save(\"model.pt\")`",
        );
    }
    other("it is a zip that holds something else", SAVE)
}

/// libtorch finds members whatever the case of their names, and takes another path for what looks like an archive of torch
/// 1.0: such members would be read although nobody looked at them.
fn refuse_other_spellings(zip: &Zip, stem: &str) -> Result<()> {
    const KNOWN: [&str; 12] = [
        "code",
        "data",
        "constants",
        "extra",
        "data.pkl",
        "constants.pkl",
        "version",
        "byteorder",
        ".data",
        "traced_inputs.pkl",
        ".format_version",
        ".storage_alignment",
    ];
    for member in zip.members() {
        let name = member.name.get(stem.len() + 1..).unwrap_or_default();
        let top = name.split('/').next().unwrap_or_default();
        let lower = name.to_lowercase();
        let ending = [".py", ".debug_pkl"].into_iter().find(|e| lower.ends_with(e) && top == "code");
        if lower == "model.json" {
            return Err(Error::invalid_model("the archive is of torch 1.0 or 1.1 (it has `model.json`)")
                .hint("load it with that torch and save it with a current one"));
        }
        if KNOWN.contains(&&*top.to_lowercase()) && !KNOWN.contains(&top) || ending.is_some_and(|e| !name.ends_with(e))
        {
            return Err(Error::new(
                crate::ErrorKind::Refused,
                format!("the archive names a member `{}`, in letters that torch does not write", member.name),
            ));
        }
    }
    Ok(())
}
