//! Batches, gathered rows, standardisation and dropout.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use wgoal::data::{
    Batch, Batches, Preprocess, Standardizer, block_order, pair_order, row_stride, steps_per_epoch,
};

fn clipart() -> Arc<Dataset> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/clipart-mini");
    Arc::new(Dataset::open(path).unwrap())
}

fn plain() -> Arc<Preprocess> {
    Arc::default()
}

/// The contents of a batch, without its return channel.
fn content(batch: &Batch) -> (Vec<f32>, Vec<f32>, Vec<u64>, usize, usize) {
    (batch.images.clone(), batch.texts.clone(), batch.ids.clone(), batch.zero_rows, batch.rows)
}

#[test]
fn an_order_is_a_shuffle_of_its_seed_and_epoch() {
    let order = pair_order(1000, 1, 1);
    assert_eq!(order.iter().collect::<HashSet<_>>().len(), 1000);
    assert!(order.iter().all(|&pair| pair < 1000));
    assert_eq!(order, pair_order(1000, 1, 1));
    let fixed = |other: Vec<u64>| order.iter().zip(other).filter(|(a, b)| *a == b).count();
    assert!(
        fixed((0..1000).collect()) < 10
            && fixed(pair_order(1000, 1, 2)) < 10
            && fixed(pair_order(1000, 2, 1)) < 10
    );
    assert_eq!(pair_order(8, 42, 3), [5, 2, 6, 3, 7, 1, 0, 4], "resumed runs rely on this order");
    assert_eq!((pair_order(0, 0, 0).len(), pair_order(1, 0, 0)), (0, vec![0]));
    // Every pair comes first equally often: 6000 shuffles of 6, within 5 sigma.
    let mut first = [0i32; 6];
    (0..6000).for_each(|epoch| first[pair_order(6, 9, epoch)[0] as usize] += 1);
    assert!(first.iter().all(|n| (n - 1000).abs() < 145), "{first:?}");
}

#[test]
fn steps_drop_only_an_incomplete_batch_after_a_full_one() {
    let cases = [(0, 4, 0), (1, 4, 1), (3, 4, 1), (4, 4, 1), (7, 4, 1), (8, 4, 2), (5, 0, 0)];
    for (pairs, batch, steps) in cases {
        assert_eq!(steps_per_epoch(pairs, batch), steps, "{pairs} pairs by {batch}");
    }
}

#[test]
fn a_batch_holds_its_pairs_in_padded_rows() {
    let dir = write(&good("<f2", "<i8"));
    let dataset = Arc::new(Dataset::open(dir.path()).unwrap());
    let (images, texts) = (features(N, P), features(M, Q));
    let train = dataset.split(Split::Train);
    for (size, steps) in [(4, 2), (9, 1), (50, 1)] {
        let order = pair_order(9, 5, 2);
        let batches: Vec<_> =
            Batches::new(dataset.clone(), plain(), size, 5, 2).unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.len(), steps);
        let mut pairs = order.iter().map(|&pair| pair as usize);
        for batch in batches {
            assert_eq!(batch.rows, size.min(9));
            assert_eq!((batch.images.len(), batch.texts.len()), (batch.rows * 8, batch.rows * 4));
            for ((image, text), &id) in batch.images.chunks(8).zip(batch.texts.chunks(4)).zip(&batch.ids) {
                let pair = pairs.next().unwrap();
                let row = train.texts.get(pair).unwrap() as usize;
                assert_eq!(id, u64::from(TEXT_TO_IMAGE[row]));
                assert_eq!(image, [&images[id as usize * P..][..P], &[0.0; 3]].concat());
                assert_eq!(text, [&texts[row * Q..][..Q], &[0.0]].concat());
            }
        }
    }
}

#[test]
fn batches_do_not_depend_on_the_speed_of_their_consumer() {
    let dataset = clipart();
    let sides = [Side::Image, Side::Text]
        .map(|side| Standardizer::fit(&dataset, side, &Preprocess::default(), &[1, 2, 3, 4].into()).unwrap());
    let preprocess = Arc::new(Preprocess::new(Some(sides), 0.3).unwrap());
    let run = |seed, epoch, pause| {
        let batches = Batches::new(dataset.clone(), preprocess.clone(), 200, seed, epoch).unwrap();
        let slow = |batch: wgoal::Result<Batch>| {
            std::thread::sleep(pause);
            content(&batch.unwrap())
        };
        batches.map(slow).collect::<Vec<_>>()
    };
    let fast = run(1, 4, Duration::ZERO);
    assert_eq!(fast.len(), dataset.split(Split::Train).texts.len() / 200);
    assert!(fast == run(1, 4, Duration::from_millis(30)), "the same bits");
    for (seed, epoch) in [(1, 5), (2, 4)] {
        let other = run(seed, epoch, Duration::ZERO);
        assert!(fast.iter().zip(&other).all(|(a, b)| a.0 != b.0 && a.1 != b.1 && a.2 != b.2));
    }
}

#[test]
fn an_error_is_yielded_once_and_ends_the_epoch() {
    let mut files = good("<f4", "<i8");
    let texts = files.get_mut("texts.npy").unwrap();
    texts.truncate(128);
    texts.extend(floats("<f4", &[f32::NAN; M * Q]));
    let dir = write(&files);
    let dataset = Arc::new(Dataset::open(dir.path()).unwrap());
    let results: Vec<_> = Batches::new(dataset.clone(), plain(), 2, 0, 0).unwrap().collect();
    assert_eq!(results.len(), 1);
    assert!(results[0].as_ref().unwrap_err().to_string().contains("texts.npy row "));
    let message = Batches::new(dataset, plain(), 0, 0, 0).unwrap_err().to_string();
    assert_eq!(message, "batch size: expected at least 1, found 0; choose a larger batch");
}

#[test]
fn an_iterator_dropped_early_stops_its_worker() {
    for taken in [0, 1, 3] {
        let dataset = clipart();
        let bytes_of = |steps| {
            let before = dataset.bytes_read();
            assert_eq!(Batches::new(dataset.clone(), plain(), 8, 0, 0).unwrap().take(steps).count(), steps);
            dataset.bytes_read() - before
        };
        let epoch = bytes_of(steps_per_epoch(dataset.split(Split::Train).texts.len(), 8));
        let before = dataset.bytes_read();
        let mut batches = Batches::new(dataset.clone(), plain(), 8, 0, 0).unwrap();
        let held: Vec<_> = batches.by_ref().take(taken).collect();
        drop(batches);
        assert_eq!(Arc::strong_count(&dataset), 1, "the worker has ended");
        assert_eq!(held.len(), taken);
        // Batches that were taken, that waited or that were being made: far fewer than an epoch has.
        let read = dataset.bytes_read() - before;
        assert!(epoch > 0 && read < epoch / 4, "{read} bytes after {taken} batches, {epoch} in an epoch");
    }
}

#[test]
fn zero_rows_are_counted() {
    let mut files = good("<f2", "<i8");
    let images = files.get_mut("images.npy").unwrap();
    // Minus zero counts as zero.
    images[128 + 2 * P * 2..128 + 3 * P * 2].copy_from_slice(&floats("<f2", &[0.0, -0.0, 0.0, 0.0, -0.0]));
    let dir = write(&files);
    let dataset = Arc::new(Dataset::open(dir.path()).unwrap());
    let mut out = Vec::new();
    assert_eq!(plain().rows(&dataset, Side::Image, &[0, 2, 1, 2], &mut out).unwrap(), 2);
    // Image 2 has two captions in the split.
    let batch = Batches::new(dataset, plain(), 9, 0, 0).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.zero_rows, 2);
}

#[test]
fn a_row_vector_is_reused_and_its_padding_cleared() {
    let dir = write(&good("<f8", "<i8"));
    let dataset = Dataset::open(dir.path()).unwrap();
    let mut out = vec![9.0; 100];
    let before = out.as_ptr();
    plain().rows(&dataset, Side::Image, &[6, 0], &mut out).unwrap();
    assert_eq!((out.as_ptr(), out.len(), row_stride(P)), (before, 16, 8));
    let images = features(N, P);
    assert_eq!(out, [&images[6 * P..], &[0.0; 3], &images[..P], &[0.0; 3]].concat());
}

#[test]
fn standardised_columns_have_mean_zero_and_deviation_one() {
    let dataset = clipart();
    let rows = &dataset.split(Split::Train).images;
    let fitted = Standardizer::fit(&dataset, Side::Image, &Preprocess::default(), rows).unwrap();
    let texts = &dataset.split(Split::Train).texts;
    let text = Standardizer::fit(&dataset, Side::Text, &Preprocess::default(), texts).unwrap();
    let preprocess = Preprocess::new(Some([fitted.clone(), text]), 0.0).unwrap();
    let mut out = Vec::new();
    preprocess.rows(&dataset, Side::Image, &rows.to_vec(), &mut out).unwrap();
    let mut constant = 0;
    for (column, &inverse) in fitted.inverse_std.iter().enumerate() {
        let values = || out.iter().skip(column).step_by(1280).map(|&x| f64::from(x));
        let mean = values().sum::<f64>() / rows.len() as f64;
        let square = values().map(|x| x * x).sum::<f64>() / rows.len() as f64;
        let expected = if inverse == 0.0 { 0.0 } else { 1.0 };
        constant += usize::from(inverse == 0.0);
        assert!(mean.abs() < 1e-5 && (square - expected).abs() < 1e-4, "column {column}: {mean} {square}");
    }
    assert!(constant < 100, "{constant}");
    let swapped = Preprocess::new(Some([fitted.clone(), fitted]), 0.0).unwrap();
    let message = swapped.rows(&dataset, Side::Text, &[0], &mut out).unwrap_err().to_string();
    let expected = "standardisation of clipart-mini: expected 384 columns, found 1280; use the dataset that it was fitted on";
    assert_eq!(message, expected);
}

#[test]
fn standardisation_is_safe_for_constant_and_far_columns() {
    // The columns: constant; one million plus or minus one; constant, with a sum that rounds; tiny; ordinary.
    let rows: Vec<f32> = (0..N)
        .flat_map(|i| {
            let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
            [7.1, 1e6 + sign, 0.1, sign * 1e-45, i as f32]
        })
        .collect();
    let mut files = good("<f4", "<i8");
    files.insert("images.npy", npy("<f4", &[N, P], &floats("<f4", &rows)));
    let dir = write(&files);
    let dataset = Dataset::open(dir.path()).unwrap();
    let Standardizer { mean, inverse_std } =
        Standardizer::fit(&dataset, Side::Image, &Preprocess::default(), &[0, 1, 2, 3, 4, 5].into()).unwrap();
    assert_eq!(mean, [7.1, 1e6, 0.1, 0.0, 2.5]);
    assert_eq!((inverse_std[0], inverse_std[1], inverse_std[2], inverse_std[3]), (0.0, 1.0, 0.0, 0.0));
    assert!((inverse_std[4] - (6.0f32 / 17.5).sqrt()).abs() < 1e-6);
}

#[test]
fn dropout_keeps_its_rate_and_scale_and_differs_by_side_batch_and_epoch() {
    let mut files = good("<f4", "<i8");
    let (p, q) = (401, 401);
    files.insert("images.npy", npy("<f4", &[N, p], &floats("<f4", &vec![1.0; N * p])));
    files.insert("texts.npy", npy("<f4", &[M, q], &floats("<f4", &vec![1.0; M * q])));
    let dir = write(&files);
    let dataset = Arc::new(Dataset::open(dir.path()).unwrap());
    for rate in [0.1f32, 0.5, 0.9] {
        let preprocess = Arc::new(Preprocess::new(None, rate).unwrap());
        let (mut masks, mut dropped, mut total) = (HashSet::new(), 0, 0);
        for epoch in 0..20 {
            for batch in Batches::new(dataset.clone(), preprocess.clone(), 4, 3, epoch).unwrap() {
                let batch = batch.unwrap();
                for values in [&batch.images, &batch.texts] {
                    for row in values.chunks(404) {
                        let kept: Vec<bool> = row[..401].iter().map(|&x| x != 0.0).collect();
                        assert!(
                            row[..401].iter().all(|&x| x == 0.0 || (x * (1.0 - rate) - 1.0).abs() < 2e-4)
                        );
                        assert_eq!(row[401..], [0.0; 3]);
                        dropped += kept.iter().filter(|kept| !**kept).count();
                        total += 401;
                        assert!(masks.insert(kept), "no mask repeats");
                    }
                }
            }
        }
        let (n, q) = (total as f64, f64::from(rate));
        let sigma = (n * q * (1.0 - q)).sqrt();
        assert!((dropped as f64 - n * q).abs() < 4.0 * sigma, "{dropped} of {total} at {rate}");
        // Evaluation uses no dropout.
        let mut out = Vec::new();
        preprocess.rows(&dataset, Side::Image, &[1], &mut out).unwrap();
        assert!(out[..401].iter().all(|&x| x == 1.0));
    }
    for rate in [-0.1, 1.0, f32::NAN] {
        assert!(Preprocess::new(None, rate).is_err());
    }
}

/// An image file of 40 GB with only a few rows written. Only the requested rows are read.
#[cfg(target_os = "linux")]
#[test]
fn a_file_far_larger_than_memory_is_read_by_row() {
    use std::os::unix::fs::FileExt;
    let (rows, cols) = (20_000_000, 1000);
    let dir = write(&good("<f2", "<i8"));
    let file = fs::File::create(dir.path().join("images.npy")).unwrap();
    file.set_len(128 + 2 * rows as u64 * cols as u64).unwrap();
    file.write_all_at(&npy("<f2", &[rows, cols], &[]), 0).unwrap();
    let last = floats("<f2", &features(1, cols));
    file.write_all_at(&last, 128 + (rows as u64 - 1) * 2000).unwrap();
    fs::write(dir.path().join("split_test.npy"), ids("<i8", &[1, rows as u32 - 1])).unwrap();
    let mut captions = TEXT_TO_IMAGE;
    captions[6] = rows as u32 - 1;
    fs::write(dir.path().join("text_to_image.npy"), ids("<i8", &captions)).unwrap();

    let dataset = Dataset::open(dir.path()).unwrap();
    let mut wanted: Vec<u64> = (0..2000).map(|i| i * 10_000).collect();
    wanted.push(rows as u64 - 1);
    let mut out = Vec::new();
    let before = dataset.bytes_read();
    assert_eq!(plain().rows(&dataset, Side::Image, &wanted, &mut out).unwrap(), 2000);
    assert_eq!(out[2000 * cols..], features(1, cols));
    // Each of these rows is read once, and nothing else.
    assert_eq!(dataset.bytes_read() - before, 2 * (wanted.len() * cols) as u64);
}

#[test]
fn blocks_are_shuffled_and_their_pairs_within_windows() {
    let block_order = |pairs, window, seed, epoch| block_order(pairs, window, seed, epoch).unwrap();
    let order = block_order(10_000, 1024, 1, 1);
    assert_eq!(order.iter().collect::<HashSet<_>>().len(), 10_000);
    assert!(order.iter().all(|&pair| pair < 10_000));
    assert_eq!(order, block_order(10_000, 1024, 1, 1));
    for other in [block_order(10_000, 1024, 1, 2), block_order(10_000, 1024, 2, 1), pair_order(10_000, 1, 1)]
    {
        assert!(order.iter().zip(other).filter(|(a, b)| *a == b).count() < 30);
    }
    // A window holds whole blocks from the whole dataset, in random order.
    for window in order.chunks(1024).take(9) {
        let mut blocks: Vec<_> = window.iter().map(|pair| pair / 64).collect();
        assert!(blocks.windows(2).filter(|pair| pair[0] == pair[1]).count() < 200, "neighbours lie together");
        blocks.sort_unstable();
        blocks.dedup();
        // The last block of all is shorter, and one more block is cut there.
        assert!((16..=18).contains(&blocks.len()) && blocks[blocks.len() - 1] - blocks[0] > 50, "{blocks:?}");
    }
    assert_eq!(block_order(8, 4, 42, 3), [1, 3, 0, 2, 5, 4, 6, 7], "resumed runs rely on this order");
    // If a window holds all pairs, every pair comes first equally often, within 5 sigma.
    let mut first = [0i32; 100];
    (0..20_000).for_each(|epoch| first[block_order(100, 1000, 9, epoch)[0] as usize] += 1);
    assert!(first.iter().all(|n| (n - 200).abs() < 75), "{first:?}");
}

/// The threads of the pool make parts of batches, but all of them may be waiting for batches themselves.
#[test]
fn batches_come_to_every_thread_of_the_pool() {
    let dataset = clipart();
    let counts = rayon::broadcast(|_| {
        // When reads have not waited for a while, batches are made in parts. Dropping the batches early waits for the
        // worker thread.
        let batches = Batches::new(dataset.clone(), plain(), 9, 0, 0).unwrap();
        batches.take(60).filter(|batch| batch.as_ref().is_ok_and(|batch| batch.rows == 9)).count()
    });
    assert!(counts.iter().all(|&count| count == 60), "{counts:?}");
}
