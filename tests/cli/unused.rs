//! Options without effect in a run are named, and no others.

use super::place::*;

/// The text of each warning.
fn warnings(output: &Output) -> Vec<&str> {
    output.stderr.lines().filter_map(|line| line.strip_prefix("warning: ")).collect()
}

/// A small dataset `single` with one caption per image, and tokens for each caption.
fn few_captions(place: &Place) {
    let images: Vec<u32> = (0..IMAGES).collect();
    write_dataset(&place.path("single"));
    let texts: Vec<f32> = numbers(5).take(IMAGES as usize * DIMS[1]).collect();
    write_npy(&place.path("single/texts.npy"), &[IMAGES.into(), DIMS[1] as u64], &texts);
    write_npy(&place.path("single/text_to_image.npy"), &[IMAGES.into()], &images);
    let tokens: Vec<f32> = numbers(6).take(3 * IMAGES as usize * 4).collect();
    write_npy(&place.path("single/text_tokens.npy"), &[3 * u64::from(IMAGES), 4], &tokens);
    let offsets: Vec<u32> = (0..=IMAGES).map(|image| 3 * image).collect();
    write_npy(&place.path("single/text_offsets.npy"), &[u64::from(IMAGES) + 1], &offsets);
}

#[test]
fn options_of_a_run_without_effect_are_named() {
    let place = Place::new();
    few_captions(&place);
    // 48 captions in batches of 16 give three steps per epoch. `single` has 24 captions.
    let table = [
        (
            "data --size-augment",
            "--size-augment has no effect: neither --image-pooling nor --text-pooling uses local features",
        ),
        ("data --token-dropout 0.1", "--token-dropout has no effect: --size-augment is off"),
        (
            "single --text-pooling mean --token-dropout 0.1",
            "--token-dropout has no effect: --size-augment is off",
        ),
        ("single --text-pooling mean --token-dropout 0.1 --size-augment", ""),
        ("data --size-augment=off", ""),
        (
            "data --dropout 0.000001",
            "--dropout has no effect: the probability is rounded to a multiple of 1/65536, here 0",
        ),
        ("data --gather f16", "--gather has no effect: the run has no --slices"),
        ("data --gather f16 --slices 2", ""),
        ("data --bank-warmup 1", "--bank-warmup has no effect: there is no --memory-bank"),
        ("data --memory-bank 32 --bank-warmup 1", ""),
        (
            "data --memory-bank 32 --bank-warmup 2",
            "--memory-bank has no effect: it is used from epoch 3 on, but the run has 2 epochs",
        ),
        (
            "data --memory-bank 48",
            "--memory-bank 48 is larger than the data: an epoch fills at most 32 pairs",
        ),
        (
            "data --memory-bank 48 --batch 64",
            "--memory-bank has no effect: each epoch has one step, and the bank is empty before that step",
        ),
        ("data --warmup-epochs 1", ""),
        (
            "data --warmup-epochs 50",
            "--warmup-epochs 50 covers all 2 epochs of the run, so cir:sig-ms is never used",
        ),
        (
            "data --warmup-epochs 1 --objective siglip",
            "--warmup-epochs has no effect: SigLIP uses all negatives from the start",
        ),
        (
            "data --warmup-epochs 1 --objective infonce",
            "--warmup-epochs has no effect: InfoNCE uses all negatives from the start",
        ),
        (
            "data --warmup-epochs 1 --objective hinge-sum",
            "--warmup-epochs has no effect: the run trains on hinge-sum, as the warm-up does",
        ),
        ("data --lr-drop 1", ""),
        ("data --lr-drop 1,2,100", "--lr-drop 2,100 has no effect: the run has 2 epochs"),
        ("data --lr-warmup 6", ""),
        (
            "data --lr-warmup 7",
            "--lr-warmup of 7 steps is longer than the run of 6 steps: the learning rate never reaches --lr",
        ),
        (
            "data --lr-warmup 100% --schedule linear",
            "--schedule has no effect: the learning rate rises until the run ends",
        ),
        ("data --decay-biases off --weight-decay 0", "--decay-biases has no effect: --weight-decay is 0"),
        ("data --decay-biases off", ""),
        ("data --epochs 3 --patience 1", ""),
        ("data --epochs 3 --patience 2", "--patience has no effect: the run has 3 epochs"),
        ("data --patience 0", ""),
        ("data --mask-same-image off", ""),
        (
            "single --mask-same-image on",
            "--mask-same-image has no effect: every training image has one caption",
        ),
        ("data --objective hinge --tau 3", "--tau has no effect: hinge has no such parameter"),
        ("data --temperature 0.1", "--temperature has no effect: cir:sig-ms has no such parameter"),
    ];
    for (i, (args, expected)) in table.into_iter().enumerate() {
        let mut args = format!("train {args} --embed 4 --device cpu --no-baselines --out {i}");
        for (option, value) in [("--epochs", "2"), ("--batch", "16"), ("--recipe", "goal")] {
            if !args.contains(option) {
                args += &format!(" {option} {value}");
            }
        }
        let output = place.run(&args);
        assert_eq!(output.code, 0, "{args}\n{}", output.stderr);
        let expected: Vec<_> = Some(expected).filter(|text| !text.is_empty()).into_iter().collect();
        assert_eq!(warnings(&output), expected, "{args}");
    }
    // The values of a recipe do not count as given options.
    let output =
        place.run("train single --recipe vsepp --embed 4 --device cpu --epochs 2 --no-baselines --out r");
    assert_eq!((output.code, warnings(&output)), (0, vec![]), "{}", output.stderr);
}

/// An option of an objective is named exactly if it changes neither the gradient nor the loss.
#[test]
fn parameters_of_objectives_are_named_where_they_change_nothing() {
    let place = Place::new();
    let (rows, dim) = (9, 4);
    for (name, seed) in [("x.npy", 11), ("y.npy", 12)] {
        let mut values: Vec<f32> = numbers(seed).take(rows * dim).collect();
        for row in values.chunks_exact_mut(dim) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= length);
        }
        write_npy(&place.path(name), &[rows as u64, dim as u64], &values);
    }
    let pairs = ["con", "lin", "lin-ms", "sig", "sig-ms"];
    let goal = ["con", "nca", "cir"].into_iter().flat_map(|t| pairs.map(|p| format!("{t}:{p}")));
    let losses = wgoal::objective::Loss::ALL.into_iter().map(|loss| loss.name().to_string());
    let others = [
        "hinge",
        "hinge-sum",
        "infonce",
        "cir:lin@top:2",
        "nca:con@all",
        "hinge+0.5*nca:sig",
        "circle:contrastive",
    ];
    let parameters = [
        "--tau 3",
        "--alpha 5",
        "--beta 4",
        "--lambda 0.1",
        "--threshold 1.5",
        "--circle-margin 0.1",
        "--margin -0.5",
        "--temperature 0.2",
    ];
    let mut named = 0;
    for objective in goal.chain(losses).chain(others.map(String::from)) {
        let run = |parameter: &str| {
            let args = format!(
                "gradient --images x.npy --texts y.npy --objective {objective} {parameter} --device cpu --out g"
            );
            let output = place.run(&args);
            assert_eq!(output.code, 0, "{args}\n{}", output.stderr);
            (place.read("g"), output)
        };
        let (plain, output) = run("");
        assert_eq!(warnings(&output), [""; 0], "{objective}");
        for parameter in parameters {
            let (changed, output) = run(parameter);
            let option = parameter.split(' ').next().unwrap();
            let expected = format!("{option} has no effect: {objective} has no such parameter");
            let expected: Vec<_> = (changed == plain).then_some(&expected[..]).into_iter().collect();
            assert_eq!(warnings(&output), expected, "{objective} {parameter}");
            named += expected.len();
        }
    }
    assert!(named > 100, "{named}");
}

#[test]
fn a_sweep_names_what_does_nothing_in_any_run() {
    let place = Place::new();
    let sweep = |args: &str, out: &str| {
        let output = place.run(&format!(
            "sweep data --seeds 0 --epochs 2 --embed 4 --batch 16 --device cpu --out {out} {args}"
        ));
        assert_eq!(output.code, 0, "{}", output.stderr);
        warnings(&output).into_iter().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(sweep("--objectives hinge,nca:con --tau 2 --margin 0.3", "one"), [""; 0]);
    let expected = [
        "--tau has no effect: hinge has no such parameter",
        "--token-dropout has no effect: --size-augment is off",
    ];
    assert_eq!(sweep("--objectives hinge,con:lin --tau 2 --grid token-dropout=0.1,0.2", "two"), expected);
}

#[test]
fn gradient_names_rows_that_are_no_unit_vectors() {
    let place = Place::new();
    write_npy(&place.path("x.npy"), &[3, 2], &[1.0f32, 0.0, 3.0, 4.0, 0.0, 1.01]);
    write_npy(&place.path("y.npy"), &[3, 2], &[0.6f32, 0.8, 0.0, 1.0003, 1.0, 0.0]);
    write_npy(&place.path("z.npy"), &[3, 2], &[0.6f32, 0.8, 0.0, 0.0, 0.0, 0.0]);
    let gradient = |args: &str| {
        let output = place.run(&format!("gradient --objective hinge --device cpu --out g {args}"));
        assert_eq!(output.code, 0, "{}", output.stderr);
        warnings(&output).into_iter().map(String::from).collect::<Vec<_>>()
    };
    let expected = "2 of the 3 rows of x.npy are not unit vectors, the first is row 1 of length 5.0000; objectives assume unit \
                    vectors: add --normalize";
    assert_eq!(gradient("--images x.npy --texts y.npy"), [expected]);
    assert_eq!(gradient("--images x.npy --texts y.npy --normalize"), [""; 0]);
    let expected = "2 of the 3 rows of z.npy are zero and have no direction, the first is row 1";
    assert_eq!(gradient("--images x.npy --texts z.npy --normalize"), [expected]);
    write_npy(&place.path("ids.npy"), &[3], &[4u32, 7, 5]);
    assert_eq!(
        gradient("--images y.npy --texts y.npy --ids ids.npy"),
        ["--ids has no effect: no two pairs belong to the same image"]
    );
    write_npy(&place.path("ids.npy"), &[3], &[4u32, 7, 4]);
    assert_eq!(gradient("--images y.npy --texts y.npy --ids ids.npy"), [""; 0]);
}

#[test]
fn a_profile_names_each_kernel_once() {
    let place = Place::new();
    let bench = |objective: &str| {
        let report = place.json(&format!(
            "bench step --shape 8:6:5:4 --objective {objective} --device cpu --profile --json"
        ));
        let kernels = report["profile"]["kernels"].as_array().unwrap().clone();
        let dispatches = |name: &str| {
            let kernel = kernels.iter().find(|kernel| kernel["name"] == name);
            kernel.map(|kernel| kernel["dispatches"].as_u64().unwrap())
        };
        let all =
            kernels.iter().filter(|kernel| !kernel["name"].as_str().unwrap().starts_with("matmul")).count();
        (dispatches("dense_field"), dispatches("hinge_sum"), all)
    };
    let (field, other, all) = bench("hinge-sum");
    assert_eq!((field, other), (Some(1), None));
    // hardest, dense_sum, dense_field, mined_order, compose, l2norm, l2norm_backward, column_sum, sum_squares, record,
    // adamw.
    assert_eq!(all, 11);
}
