//! All random numbers of the crate. Each stream is a pure function of purpose, seed, epoch and batch.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What random numbers are for. Each purpose has its own streams. In the stream number, bits 56 to 63 are the purpose,
/// bits 32 to 55 the epoch (modulo 2^24), and bits 0 to 31 the batch.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Order = 1,
    ImageDropout = 2,
    TextDropout = 3,
    Weights = 4,
    ImageRows = 5,
    TextRows = 6,
    Negatives = 7,
    Analysis = 8,
    Subspace = 9,
    Bank = 10,
    Landmarks = 11,
}

pub(crate) fn random(purpose: Purpose, seed: u64, epoch: u64, batch: u32) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((purpose as u64) << 56 | (epoch & 0xff_ffff) << 32 | u64::from(batch));
    rng
}
