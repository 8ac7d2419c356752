//! Bytes of a file, wherever they lie: in a vector, or where the kernel has mapped them.

use std::{
    fmt,
    ops::{Deref, Range},
    sync::Arc,
};

/// Bytes that do not change and are shared by all clones.
#[derive(Clone)]
pub struct Bytes {
    memory: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// All bytes of some memory, which must give the same whenever it is asked.
    pub fn new(memory: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..memory.as_ref().len();
        Self { memory: Arc::new(memory), range }
    }

    /// Some of them; `None` if they are not all there.
    ///
    /// ```
    /// let bytes = rust_host_engine::Bytes::from(vec![0, 1, 2, 3]).part(1..4).and_then(|b| b.part(1..2));
    /// assert_eq!(*bytes.unwrap(), [2]);
    /// ```
    pub fn part(&self, range: Range<usize>) -> Option<Self> {
        let whole = self.range.start.checked_add(range.start)?..self.range.start.checked_add(range.end)?;
        (range.start <= range.end && whole.end <= self.range.end)
            .then(|| Self { memory: self.memory.clone(), range: whole })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.memory).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
