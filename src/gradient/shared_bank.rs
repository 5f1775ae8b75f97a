//! Mining in a memory bank that several processes share. Each holds the rows of its own slices of every batch.
//!
//! ```text
//! mine the held rows for all anchors -> exchange what was found, to the processes of the anchors -> the best of it and of
//! the batch -> join -> exchange the mined rows, to the processes of the anchors
//! ```
//!
//! So memory is divided as well as work, and a step moves numbers per anchor and one row per anchor, whatever the size of
//! the bank.

use super::bank::Bank;
use super::shard::Shard;
use super::workspace::Mined;
use crate::Result;
#[cfg(feature = "native")]
use crate::cluster::exchange;
#[cfg(feature = "native")]
use crate::device::wait;
use crate::device::{Buffer, Device, Mat, Matrix, Slice};

/// What mining in the bank finds. Of two arrays, the first belongs to images as anchors, the second to texts.
pub(super) struct SharedBank {
    /// The hardest of the held pairs, of every anchor.
    pub found: [Mined; 2],
    /// The rows that own anchors have mined. Row i belongs to own anchor i; it has no meaning if the anchor has mined a
    /// pair of the batch.
    rows: [Matrix; 2],
    /// For `compose`: of an anchor that has mined a row of the bank, the number of pairs plus its row in `rows`. Of every
    /// other anchor, what it has mined.
    index: [Buffer<u32>; 2],
    /// Whether the bank takes part in this round.
    is_mined: bool,
}

impl SharedBank {
    pub fn new(device: &Device, shard: &Shard, [pairs, dim]: [usize; 2]) -> Result<Self> {
        let mined = |label| Mined::new(device, label, pairs);
        let rows = |label| Matrix::new(device, label, shard.own_pairs().len(), dim);
        let index = |label| Buffer::new(device, label, pairs);
        Ok(Self {
            found: [mined("bank.hardest_text")?, mined("bank.hardest_image")?],
            rows: [rows("bank.mined_texts")?, rows("bank.mined_images")?],
            index: [index("bank.text_index")?, index("bank.image_index")?],
            is_mined: false,
        })
    }

    /// Begins a round of mining: no anchor has found anything in the bank.
    pub fn begin(&mut self, device: &Device, takes_part: bool) -> Result<()> {
        self.is_mined = takes_part;
        if !takes_part {
            return Ok(());
        }
        for Mined { value, index } in &mut self.found {
            value.write(device, 0, &vec![-1.0; value.len()])?;
            // An anchor's own number stands for nothing.
            index.write(device, 0, &(0..index.len() as u32).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// The mined rows of a direction, and the indices to compose with, if the bank takes part in this round.
    pub fn to_compose(&self, direction: usize) -> Option<(Mat<'_>, Slice<'_, u32>)> {
        self.is_mined.then(|| (self.rows[direction].view(), self.index[direction].view()))
    }

    /// Takes over what is harder in the bank than in the batch, of the own anchors. `mined` is what they have found in the
    /// batch. Among equal similarities the lower index wins, and so the batch. With `exclude_own`, an anchor that has only
    /// its own number has found nothing.
    #[cfg(feature = "native")]
    pub fn merge(
        &self,
        device: &Device,
        shard: &Shard,
        mined: [&mut Mined; 2],
        exclude_own: bool,
    ) -> Result<()> {
        let (size, own) = (shard.ranks.size(), shard.own_pairs());
        let (lens, count) = (shard.slices.lens(size), own.len());
        let pairs = lens.iter().sum();
        let mut all = Vec::new();
        for Mined { value, index } in &self.found {
            let values = wait(value.read(device, 0..pairs))?;
            all.push(values.into_iter().map(f32::to_bits).collect::<Vec<_>>());
            all.push(wait(index.read(device, 0..pairs))?);
        }
        let mut sent: Vec<u32> = Vec::with_capacity(4 * pairs);
        let mut start = 0;
        for len in &lens {
            all.iter().for_each(|words| sent.extend(&words[start..start + len]));
            start += len;
        }
        let to: Vec<_> = lens.iter().map(|len| 4 * len).collect();
        let received = exchange(&*shard.ranks, &sent, [&to, &vec![4 * count; size]])?;
        for (direction, mined) in mined.into_iter().enumerate() {
            let mut value = wait(mined.value.read(device, own.clone()))?;
            let mut index = wait(mined.index.read(device, own.clone()))?;
            for (i, (anchor, (n, h))) in
                (own.start as u32..).zip(value.iter_mut().zip(&mut index)).enumerate()
            {
                let of_rank = |part: &[u32]| {
                    let [n, h] = [0, 1].map(|word| part[(2 * direction + word) * count + i]);
                    (f32::from_bits(n), h)
                };
                let mut nothing = exclude_own && *h == anchor;
                for (other, k) in received.chunks_exact(4 * count).map(of_rank).filter(|&(_, k)| k != anchor)
                {
                    if nothing || other > *n || (other == *n && k < *h) {
                        (*n, *h, nothing) = (other, k, false);
                    }
                }
            }
            mined.value.write(device, own.start, &value)?;
            mined.index.write(device, own.start, &index)?;
        }
        Ok(())
    }

    /// Brings the rows that own anchors have mined. `mined` is what all anchors have mined.
    #[cfg(feature = "native")]
    pub fn fetch(&mut self, device: &Device, bank: &Bank, shard: &Shard, mined: [&Mined; 2]) -> Result<()> {
        let (rank, size, own) = (shard.ranks.rank(), shard.ranks.size(), shard.own_pairs());
        let lens = shard.slices.lens(size);
        let pairs: usize = lens.iter().sum();
        let holder: Vec<usize> =
            lens.iter().enumerate().flat_map(|(rank, &len)| std::iter::repeat_n(rank, len)).collect();
        let all = mined.map(|mined| wait(mined.index.read(device, 0..pairs)));
        let [of_images, of_texts] = all;
        let all = [of_images?, of_texts?];
        // The pair of the bank that an anchor has mined, and the process that holds it.
        let in_bank = |h: u32| (h as usize).checked_sub(pairs).map(|pair| (pair, holder[pair % pairs]));
        let stride = self.rows[0].view().stride();
        let (mut sent, mut to, mut start) = (Vec::new(), Vec::new(), 0);
        for len in &lens {
            let before = sent.len();
            for (direction, index) in all.iter().enumerate() {
                let held = index[start..start + len].iter().filter_map(|&h| in_bank(h));
                for (pair, _) in held.filter(|&(_, holder)| holder == rank) {
                    sent.extend_from_slice(bank.row(1 - direction, pair)?);
                }
            }
            to.push(sent.len() - before);
            start += len;
        }
        let mut from = vec![0; size];
        let own_mined = all.iter().flat_map(|index| &index[own.clone()]);
        own_mined.filter_map(|&h| in_bank(h)).for_each(|(_, holder)| from[holder] += stride);
        let received = exchange(&*shard.ranks, &sent, [&to, &from])?;
        // The next row from every process.
        let mut next: Vec<_> =
            from.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len))).collect();
        for (direction, mut index) in all.into_iter().enumerate() {
            let mut rows = vec![0.0; own.len() * stride];
            for (i, h) in index[own.clone()].iter_mut().enumerate() {
                if let Some((_, holder)) = in_bank(*h) {
                    let at = next[holder];
                    rows[i * stride..(i + 1) * stride].copy_from_slice(&received[at..at + stride]);
                    next[holder] += stride;
                    *h = (pairs + i) as u32;
                }
            }
            // What other processes compose is not used here.
            let others = (0..own.start).chain(own.end..pairs);
            others.for_each(|anchor| index[anchor] = index[anchor].min(pairs as u32 - 1));
            self.rows[direction].buffer.write(device, 0, &rows)?;
            self.index[direction].write(device, 0, &index)?;
        }
        Ok(())
    }

    /// A page in a browser shares no bank.
    #[cfg(not(feature = "native"))]
    pub fn merge(&self, _: &Device, _: &Shard, _: [&mut Mined; 2], _: bool) -> Result<()> {
        Ok(())
    }

    /// A page in a browser shares no bank.
    #[cfg(not(feature = "native"))]
    pub fn fetch(&mut self, _: &Device, _: &Bank, _: &Shard, _: [&Mined; 2]) -> Result<()> {
        Ok(())
    }
}
