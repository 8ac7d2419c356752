//! Memory of tensors: aligned for vectors, and kept for the next tensor. What is given back to the system is zeroed page by
//! page when it comes again, which takes longer than many an operator.

use std::{
    alloc::{Layout, alloc, dealloc},
    collections::VecDeque,
    ptr::NonNull,
    sync::{
        Mutex, PoisonError,
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
}

// SAFETY: memory belongs to no thread.
unsafe impl Send for Block {}
// SAFETY: only its address can be read.
unsafe impl Sync for Block {}

/// Blocks that nobody uses, those that were freed last at the end.
struct Free {
    blocks: VecDeque<Block>,
    bytes: usize,
    in_use: usize,
    /// Of all blocks at once that were ever in use.
    most: usize,
}

impl Free {
    /// Half as much again as was ever in use: with less, a network of layers of many sizes has new memory in each call.
    fn has_too_much(&self) -> bool {
        self.bytes + self.in_use > self.most + self.most / 2 || self.blocks.len() > MOST_KEPT
    }

    /// The smallest block that is large enough, of those the one that was freed last.
    fn take(&mut self, size: usize) -> Option<Block> {
        let fits = |block: &Block| (size..=size.saturating_mul(ROOMIEST)).contains(&block.size());
        let at = (0..self.blocks.len())
            .rev()
            .filter(|at| fits(&self.blocks[*at]))
            .min_by_key(|at| self.blocks[*at].size())?;
        let block = self.blocks.remove(at)?;
        self.bytes -= block.size();
        Some(block)
    }

    fn uses(&mut self, size: usize) {
        self.in_use += size;
        self.most = self.most.max(self.in_use);
    }
}

static FREE: Mutex<Free> = Mutex::new(Free { blocks: VecDeque::new(), bytes: 0, in_use: 0, most: 0 });

impl Block {
    /// At least that many bytes; `None` if there is no memory for them.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        let size = rounded(bytes)?;
        if size < SMALLEST_KEPT {
            return Self::from_system(size);
        }
        let kept = {
            let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
            let block = free.take(size);
            free.uses(block.as_ref().map_or(size, Self::size));
            block
        };
        kept.or_else(|| Self::from_system(size)).or_else(|| {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).in_use -= size;
            None
        })
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
        Some(Self { start, whole, layout, size })
    }

    fn give_back(self) {
        // SAFETY: it was allocated with this layout, and `self` was the only one to have it.
        unsafe { dealloc(self.whole.as_ptr(), self.layout) };
    }

    fn size(&self) -> usize {
        self.size
    }

    /// Where it begins, at a multiple of 64.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Back to where it came from.
    pub(crate) fn free(self) {
        let size = self.size();
        if size < SMALLEST_KEPT {
            return self.give_back();
        }
        let mut surplus = Vec::new();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.in_use -= size;
        free.bytes += size;
        free.blocks.push_back(self);
        while free.has_too_much() {
            let Some(block) = free.blocks.pop_front() else { break };
            free.bytes -= block.size();
            surplus.push(block);
        }
        drop(free);
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

    #[test]
    fn a_freed_block_comes_again_and_no_more_is_kept_than_half_as_much_again_as_was_in_use() {
        let mut free = Free { blocks: VecDeque::new(), bytes: 0, in_use: 0, most: 0 };
        let mut sizes: Vec<usize> = Vec::new();
        for size in [3 << 20, 40 << 10, 5 << 20, 1 << 20] {
            free.blocks.push_back(Block::from_system(size).unwrap());
            free.bytes += size;
        }
        // The smallest that is large enough; of one that is much too large nothing is taken.
        for wanted in [2 << 20, 30 << 10, 30 << 10, 6 << 20, 700 << 10] {
            let block = free.take(wanted);
            sizes.push(block.as_ref().map_or(0, Block::size));
            block.into_iter().for_each(Block::give_back);
        }
        assert_eq!(sizes, [3 << 20, 40 << 10, 0, 0, 1 << 20]);
        assert_eq!(free.bytes, 5 << 20);
        free.blocks.drain(..).for_each(Block::give_back);

        for bytes in (20 << 10..4 << 20).step_by(30_000) {
            Block::new(bytes).unwrap().free();
        }
        let free = FREE.lock().unwrap();
        assert!(!free.has_too_much(), "{} of {}", free.bytes, free.most);
        assert_eq!(free.bytes, free.blocks.iter().map(Block::size).sum::<usize>());
    }

    #[test]
    fn a_network_whose_layers_become_smaller_has_no_new_memory_in_its_second_call() {
        let sizes = [12 << 20, 25 << 20, 6 << 20, 12 << 20, 13 << 20, 3 << 20, 6 << 20, 7 << 20, 1 << 20, 3 << 20];
        let call = || {
            let mut before: Option<Block> = None;
            let mut seen = Vec::new();
            for size in sizes {
                let block = Block::new(size).unwrap();
                seen.push(block.start().addr());
                if let Some(last) = before.replace(block) {
                    last.free();
                }
            }
            before.into_iter().for_each(Block::free);
            seen
        };
        let first = call();
        assert!(call().iter().all(|start| first.contains(start)));
    }
}
