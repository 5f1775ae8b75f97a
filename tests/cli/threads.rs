//! Results do not depend on the number of threads, nor on the other rows of a batch.

use crate::place::{Place, numbers, write_npy};

/// The number of images, the width of their features, and that of the text features.
const IMAGES: u32 = 300;
const WIDTHS: [usize; 2] = [700, 150];

/// A dataset large enough that several threads share its products. The image rows from 20 to 156 are equal.
fn wide_dataset(place: &Place) {
    let [p, q] = WIDTHS;
    let mut images: Vec<f32> = numbers(1).take(IMAGES as usize * p).collect();
    let row = images[20 * p..21 * p].to_vec();
    images[20 * p..157 * p].chunks_exact_mut(p).for_each(|equal| equal.copy_from_slice(&row));
    let folder = place.path("wide");
    std::fs::create_dir(&folder).unwrap();
    let texts: Vec<f32> = numbers(2).take(IMAGES as usize * q).collect();
    let rows = u64::from(IMAGES);
    write_npy(&folder.join("images.npy"), &[rows, p as u64], &images);
    write_npy(&folder.join("texts.npy"), &[rows, q as u64], &texts);
    write_npy(&folder.join("text_to_image.npy"), &[rows], &(0..IMAGES).collect::<Vec<_>>());
    for (name, rows) in [("train", 0..200), ("val", 200..249), ("test", 249..300)] {
        let rows: Vec<u32> = rows.collect();
        write_npy(&folder.join(format!("split_{name}.npy")), &[rows.len() as u64], &rows);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let place = Place::new();
    wide_dataset(&place);
    let trainings = [
        "--objective cir:sig-ms --batch 64 --embed 64",
        "--objective infonce --batch 200 --embed 130 --init cca --standardize",
        "--objective infonce --batch 200 --embed 40 --init kcca --random-features 300 --standardize",
        "--objective infonce --batch 200 --embed 40 --init kcca --landmarks 400 --standardize",
        "--objective infonce --batch 200 --embed 70 --text-encoder residual-mlp --ema 0.9 --l2-sp 1 --structure 10",
    ];
    for (k, training) in trainings.into_iter().enumerate() {
        let mut first: Option<(Vec<u8>, Vec<u8>)> = None;
        for threads in ["1", "2", "3", "4", "7"] {
            let out = format!("run{k}-{threads}");
            let args = format!(
                "train wide --recipe goal {training} --epochs 2 --device cpu --no-baselines --out {out}"
            );
            let mut command = place.command();
            command.env("RAYON_NUM_THREADS", threads).args(args.split(' ')).assert().success();
            let mut embed = place.command();
            let args =
                format!("embed {out}/best.safetensors wide --split all --device cpu --out {out}/vectors");
            embed.env("RAYON_NUM_THREADS", threads).args(args.split(' ')).assert().success();
            let found = (
                place.read(&format!("{out}/best.safetensors")),
                place.read(&format!("{out}/vectors/images.npy")),
            );
            let first = first.get_or_insert_with(|| found.clone());
            assert!(first.0 == found.0, "{training}: another head on {threads} threads");
            assert!(first.1 == found.1, "{training}: other embeddings on {threads} threads");
        }
    }
}

#[test]
fn equal_rows_get_equal_embeddings_wherever_they_stand() {
    let place = Place::new();
    wide_dataset(&place);
    for embed in ["1", "33", "64"] {
        let out = format!("run{embed}");
        place.ok(&format!(
            "train wide --recipe goal --batch 50 --embed {embed} --epochs 1 --device cpu --no-baselines \
             --correction none --out {out}"
        ));
        place.ok(&format!("embed {out}/best.safetensors wide --split all --device cpu --out {out}/all"));
        place.ok(&format!("embed {out}/best.safetensors wide --split test --device cpu --out {out}/test"));
        let row = 4 * embed.parse::<usize>().unwrap();
        let values = |name: &str, rows: usize| {
            let bytes = place.read(&format!("{out}/{name}/images.npy"));
            bytes[bytes.len() - rows * row..].to_vec()
        };
        let all = values("all", IMAGES as usize);
        assert!(all[20 * row..157 * row].chunks_exact(row).all(|equal| *equal == all[20 * row..21 * row]));
        // The embedding of a row does not depend on the rows beside it.
        assert_eq!(all[249 * row..], values("test", 51));
    }
}
