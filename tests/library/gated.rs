//! Heads with gated perceptrons against their formula in f64.

use crate::kernel_cca::{wide, worst};
use crate::random::Random;
use wgoal::data::Side;
use wgoal::model::{EncoderKind, HeadConfig};
use wgoal::{Device, Head};

const DIM: usize = 5;
const EMBED: usize = 6;
const ROWS: usize = 4;

/// A head whose texts have a gated perceptron of twice their width, and some of whose gates are closed or wide open.
fn head() -> Head {
    let config = HeadConfig::default().with(|c| {
        c.embed = EMBED;
        c.text_encoder = EncoderKind::GatedMlp;
        c.gated_width = 2;
    });
    let mut head = Head::for_config(3, DIM, &config, 3).unwrap();
    let mut random = Random::new(4);
    for (name, scale) in [("gate.weight", 6.0), ("gate.bias", 2.0), ("value.bias", 1.0), ("second.bias", 1.0)]
    {
        let name = format!("text.mlp.{name}");
        let count = head.parameter(&name).unwrap().len();
        let values: Vec<f32> = random.values(count).iter().map(|x| scale * x).collect();
        head.set_parameter(&name, &values).unwrap();
    }
    head
}

/// Unit rows of W f + b + C (min(max(A f + a, 0), 6) (B f + b')) + c, and the inputs of all gates.
fn embedded(head: &Head, features: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let layer = |name: &str, x: &[f64]| -> Vec<f64> {
        let get = |part: &str| wide(&head.parameter(&format!("text.{name}{part}")).unwrap());
        let (weight, bias) = (get("weight"), get("bias"));
        let rows = weight.chunks(x.len()).zip(bias);
        rows.map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias).collect()
    };
    let (mut rows, mut gates) = (Vec::new(), Vec::new());
    for f in features.chunks(DIM) {
        let (gate, value) = (layer("mlp.gate.", f), layer("mlp.value.", f));
        let hidden: Vec<f64> = gate.iter().zip(value).map(|(a, b)| a.clamp(0.0, 6.0) * b).collect();
        let added = layer("mlp.second.", &hidden);
        let z: Vec<f64> = layer("", f).iter().zip(added).map(|(z, more)| z + more).collect();
        let norm = z.iter().map(|z| z * z).sum::<f64>().sqrt();
        rows.extend(z.iter().map(|z| z / norm));
        gates.extend(gate);
    }
    (rows, gates)
}

#[test]
fn gated_perceptrons_and_their_gradients_follow_the_formula() {
    let (device, head, mut random) = (Device::cpu(), head(), Random::new(1));
    let (features, upstream) = (random.values(ROWS * DIM), random.values(ROWS * EMBED));
    let (rows, gates) = embedded(&head, &wide(&features));
    let count = |inside: fn(&f64) -> bool| gates.iter().filter(|gate| inside(gate)).count();
    let kinds = [count(|x| *x < 0.0), count(|x| (0.0..6.0).contains(x)), count(|x| *x > 6.0)];
    assert!(kinds.iter().all(|&count| count > 2), "{kinds:?}");
    let found = head.encode(&device, Side::Text, &features, &[1; ROWS]).unwrap();
    assert!(worst(&found, &rows) < 1e-6);

    let found = head.encode_backward(&device, Side::Text, &features, &[1; ROWS], &upstream).unwrap();
    let value = |head: &Head, features: &[f64]| -> f64 {
        embedded(head, features).0.iter().zip(&upstream).map(|(x, &g)| x * f64::from(g)).sum()
    };
    let by_features: Vec<f64> = (0..features.len())
        .map(|at| {
            let [low, high] = [-1e-5, 1e-5].map(|step| {
                let mut moved = wide(&features);
                moved[at] += step;
                value(&head, &moved)
            });
            (high - low) / 2e-5
        })
        .collect();
    assert!(worst(&found.features, &by_features) < 1e-5, "{:?} {by_features:?}", found.features);
    // f32 rounds the step, so the derivative divides by the step that was taken.
    const STEP: f32 = 1e-3;
    let parts = ["", "mlp.gate.", "mlp.value.", "mlp.second."];
    for name in parts.iter().flat_map(|part| ["weight", "bias"].map(|kind| format!("text.{part}{kind}"))) {
        let values = head.parameter(&name).unwrap();
        let slopes: Vec<f64> = (0..values.len())
            .map(|at| {
                let [low, high] = [values[at] - STEP, values[at] + STEP];
                let at = |x: f32| {
                    let (mut moved, mut values) = (head.clone(), values.clone());
                    values[at] = x;
                    moved.set_parameter(&name, &values).unwrap();
                    value(&moved, &wide(&features))
                };
                (at(high) - at(low)) / f64::from(high - low)
            })
            .collect();
        // The error of a central difference is that of its cubic term.
        assert!(worst(&found.gradient.parameter(&name).unwrap(), &slopes) < 1e-4, "{name}");
    }
    assert!(found.gradient.parameter("image.weight").unwrap().iter().all(|&x| x == 0.0));
}
