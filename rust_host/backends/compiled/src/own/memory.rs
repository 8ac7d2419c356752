//! Memory of tensors: aligned for vectors, and kept for the next tensor. What is given back to the system is zeroed page by
//! page when it comes again, which takes longer than many an operator.

use std::{
    alloc::{Layout, alloc, dealloc},
    collections::VecDeque,
    ptr::NonNull,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Of a cache line and of the widest vector.
const ALIGNMENT: usize = 64;
/// Smaller blocks the allocator has at hand.
const SMALLEST_KEPT: usize = 16 << 10;
/// More than any model frees between two uses of a size.
const MOST_KEPT: usize = 256;
/// A tensor takes the smallest kept block that is large enough, up to so many times its size: the layers of a network become
/// smaller from one to the next, and each would have new memory otherwise.
const ROOMIEST: usize = 8;
/// Large blocks begin at different places of their pages: where all begin at the same one, a load waits for a store to another
/// tensor whose address ends alike, and they push one another out of the nearest cache.
const PAGE: usize = 4096;

/// Uninitialised bytes of one tensor.
#[derive(Debug)]
pub(crate) struct Block {
    start: NonNull<u8>,
    whole: NonNull<u8>,
    layout: Layout,
    size: usize,
    /// What was asked for, of it.
    asked: usize,
}

// SAFETY: memory belongs to no thread.
unsafe impl Send for Block {}
// SAFETY: only its address can be read.
unsafe impl Sync for Block {}

/// Blocks that nobody uses, those that were freed last at the end, and what is known of the others.
struct Kept {
    blocks: VecDeque<Block>,
    /// Of them.
    bytes: usize,
    /// Of blocks that are in use, and what was asked for of that.
    in_use: usize,
    asked: usize,
    /// That was ever asked for at once.
    most: usize,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept::new());

impl Kept {
    const fn new() -> Self {
        Self { blocks: VecDeque::new(), bytes: 0, in_use: 0, asked: 0, most: 0 }
    }

    /// A block for a tensor of that size, if there is one: the smallest that is large enough, of those the one that was freed last.
    fn take(&mut self, size: usize) -> Option<Block> {
        let fits = |block: &Block| (size..=size.saturating_mul(ROOMIEST)).contains(&block.size);
        let all = (0..self.blocks.len()).rev();
        let at = all.filter(|at| fits(&self.blocks[*at])).min_by_key(|at| self.blocks[*at].size)?;
        let block = self.blocks.remove(at)?;
        self.bytes -= block.size;
        self.uses(size, block.size);
        Some(Block { asked: size, ..block })
    }

    fn uses(&mut self, asked: usize, size: usize) {
        self.in_use += size;
        self.asked += asked;
        self.most = self.most.max(self.asked);
    }

    fn put(&mut self, block: Block) {
        self.in_use -= block.size;
        self.asked -= block.asked;
        self.bytes += block.size;
        self.blocks.push_back(block);
    }

    /// What is to go, those first that nobody used for longest: of all memory, more than twice of what was ever asked for at once.
    /// With less, a network of layers of many sizes would have new memory in each call.
    fn surplus(&mut self) -> Vec<Block> {
        let mut surplus = Vec::new();
        while self.bytes + self.in_use > 2 * self.most || self.blocks.len() > MOST_KEPT {
            let Some(block) = self.blocks.pop_front() else { break };
            self.bytes -= block.size;
            surplus.push(block);
        }
        surplus
    }
}

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    /// At least that many bytes; `None` if there is no memory for them.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        let size = rounded(bytes)?;
        if size < SMALLEST_KEPT {
            return Self::from_system(size);
        }
        // In two steps: the lock is not held while the system looks for memory, or takes it back.
        if let Some(block) = kept().take(size) {
            return Some(block);
        }
        let block = Self::from_system(size)?;
        let mut kept = kept();
        kept.uses(size, size);
        let surplus = kept.surplus();
        drop(kept);
        surplus.into_iter().for_each(Self::give_back);
        Some(block)
    }

    /// The allocator's own way to alignment is slower than a few bytes more.
    fn from_system(size: usize) -> Option<Self> {
        static LARGE: AtomicUsize = AtomicUsize::new(0);
        let is_large = size >= SMALLEST_KEPT;
        let shift = if is_large { LARGE.fetch_add(1, Relaxed).wrapping_mul(17 * ALIGNMENT) % PAGE } else { 0 };
        let more = if is_large { ALIGNMENT + PAGE } else { ALIGNMENT };
        let layout = Layout::from_size_align(size.checked_add(more)?, 16).ok()?;
        // SAFETY: the layout is not empty.
        let whole = NonNull::new(unsafe { alloc(layout) })?;
        let start = whole.map_addr(|address| {
            let aligned = address.saturating_add(ALIGNMENT - address.get() % ALIGNMENT);
            let into_page = (PAGE + shift - aligned.get() % PAGE) % PAGE;
            if is_large { aligned.saturating_add(into_page) } else { aligned }
        });
        Some(Self { start, whole, layout, size, asked: size })
    }

    fn give_back(self) {
        // SAFETY: it was allocated with this layout, and `self` was the only one to have it.
        unsafe { dealloc(self.whole.as_ptr(), self.layout) };
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Where it begins, at a multiple of 64.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Back to where it came from.
    pub(crate) fn free(self) {
        if self.size < SMALLEST_KEPT {
            return self.give_back();
        }
        let mut kept = kept();
        kept.put(self);
        let surplus = kept.surplus();
        drop(kept);
        surplus.into_iter().for_each(Self::give_back);
    }
}

/// Sizes that are alike but for an eighth are one, so that a kept block fits more often.
fn rounded(bytes: usize) -> Option<usize> {
    let step = match bytes {
        0..SMALLEST_KEPT => ALIGNMENT,
        _ => (1 << bytes.ilog2()) / 8,
    };
    bytes.max(1).checked_next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_as_long_as_asked_for() {
        for bytes in [0, 1, 63, 64, 65, 4096, 16 << 10, 100_000, 5 << 20] {
            let block = Block::new(bytes).unwrap();
            assert_eq!(block.start().addr().get() % ALIGNMENT, 0);
            let least = rounded(bytes).unwrap();
            assert!(least >= bytes && least <= bytes + bytes / 8 + ALIGNMENT);
            assert!((least..=ROOMIEST * least).contains(&block.size()));
            // SAFETY: the block has as many bytes.
            unsafe { block.start().as_ptr().write_bytes(1, bytes) };
            block.free();
        }
    }

    #[test]
    fn what_cannot_be_had_is_none() {
        assert!(Block::new(usize::MAX).is_none() && Block::new(1 << 62).is_none());
    }

    /// As [`Block::new`] and [`Block::free`] do, without the memory of other tests.
    fn new(kept: &mut Kept, bytes: usize) -> Block {
        let block = kept.take(bytes).unwrap_or_else(|| {
            kept.uses(bytes, bytes);
            Block::from_system(bytes).unwrap()
        });
        kept.surplus().into_iter().for_each(Block::give_back);
        block
    }

    fn free(kept: &mut Kept, block: Block) {
        kept.put(block);
        kept.surplus().into_iter().for_each(Block::give_back);
    }

    fn end(mut kept: Kept) {
        kept.blocks.drain(..).for_each(Block::give_back);
        assert_eq!((kept.in_use, kept.asked), (0, 0));
    }

    #[test]
    fn a_tensor_takes_the_smallest_block_that_is_not_much_too_large() {
        let mut kept = Kept::new();
        let blocks: Vec<Block> = [3 << 20, 40 << 10, 5 << 20, 1 << 20].map(|size| new(&mut kept, size)).into();
        blocks.into_iter().for_each(|block| free(&mut kept, block));
        let mut taken = |size| {
            kept.take(size).map_or(0, |block| {
                let size = block.size;
                block.give_back();
                size
            })
        };
        assert_eq!(
            [2 << 20, 30 << 10, 30 << 10, 6 << 20, 700 << 10].map(&mut taken),
            [3 << 20, 40 << 10, 0, 0, 1 << 20]
        );
        assert_eq!((kept.bytes, kept.blocks.len()), (5 << 20, 1));
        kept.blocks.drain(..).for_each(Block::give_back);
    }

    #[test]
    fn no_more_is_kept_than_twice_of_what_was_asked_for_at_once() {
        let mut kept = Kept::new();
        for bytes in (20 << 10..4 << 20).step_by(30_000) {
            let block = new(&mut kept, bytes);
            assert_eq!(kept.most, bytes);
            free(&mut kept, block);
            assert!(kept.bytes <= 2 * kept.most && kept.blocks.len() <= MOST_KEPT);
            assert_eq!(kept.bytes, kept.blocks.iter().map(Block::size).sum::<usize>());
        }
        // Small tensors in roomy blocks are no reason to keep more.
        let few: Vec<Block> = (0..8).map(|_| new(&mut kept, 600 << 10)).collect();
        assert!(kept.most <= 8 * (600 << 10));
        few.into_iter().for_each(|block| free(&mut kept, block));
        end(kept);
    }

    #[test]
    fn a_network_whose_layers_become_smaller_has_no_new_memory_in_its_second_call() {
        let (mut kept, sizes) = (Kept::new(), [12, 25, 6, 12, 13, 3, 6, 7, 1, 3].map(|mib| mib << 20));
        let mut call = || {
            let mut before: Option<Block> = None;
            let mut seen = Vec::new();
            for size in sizes {
                let block = new(&mut kept, size);
                seen.push(block.start().addr());
                before.replace(block).into_iter().for_each(|last| free(&mut kept, last));
            }
            before.into_iter().for_each(|last| free(&mut kept, last));
            seen
        };
        let first = call();
        assert!(call().iter().all(|start| first.contains(start)));
        end(kept);
    }
}
