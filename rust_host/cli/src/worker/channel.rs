//! The socket between the two processes: one small message at a time, with an open file beside it where there is one.

use rust_host_engine::{Error, ErrorKind, Result};
use rustix::{
    io::{IoSlice, IoSliceMut},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

/// Longest message: an error's text is at most 4 KiB, six times that as JSON.
const LONGEST: usize = 32 << 10;

/// What the worker asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// A new output file of that name; the answer brings it, open.
    Begin(String),
    /// All that were begun in their places.
    Finish,
    /// Nothing: it has told its result or its error, and ends.
    Said,
}

/// The answer. The first one comes unasked and brings stdin.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Failed { kind: String, message: String, hint: Option<String> },
}

impl Answer {
    pub(super) fn failed(e: Error) -> Self {
        Self::Failed { kind: e.kind.as_str().to_owned(), message: e.message, hint: e.hint }
    }

    pub(super) fn into_result(self) -> Result<()> {
        let Self::Failed { kind, message, hint } = self else { return Ok(()) };
        // What beginning and finishing a file can say.
        let kinds = [ErrorKind::NotFound, ErrorKind::InvalidInput, ErrorKind::Unavailable];
        let kind = kinds.into_iter().find(|k| k.as_str() == kind).unwrap_or(ErrorKind::Internal);
        let error = Error::new(kind, message);
        Err(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(pub OwnedFd);

impl Channel {
    pub(super) fn send(&self, message: &impl Serialize, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let files = file.map(|f| [f]);
        if let Some(files) = &files {
            beside.push(SendAncillaryMessage::ScmRights(files));
        }
        // Without a signal if the other one is gone.
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message; `None` when the other end is closed.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut bytes = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recvmsg(&self.0, into, &mut beside, RecvFlags::CMSG_CLOEXEC))?;
        let mut files = beside.drain().filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let file = files.next().and_then(|mut files| files.next());
        if received.bytes == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(bytes.get(..received.bytes).unwrap_or_default())?, file)))
    }
}
