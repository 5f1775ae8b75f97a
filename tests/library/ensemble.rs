//! Ensembles of heads through the library.

use crate::random::Random;
use wgoal::data::Side;
use wgoal::model::HeadConfig;
use wgoal::{Device, Head};

const DIMS: [usize; 2] = [5, 3];

fn head(embed: usize, seed: u64) -> Head {
    let config = HeadConfig::default().with(|c| (c.embed, c.random_features) = (embed, 4));
    Head::for_config(DIMS[0], DIMS[1], &config, seed).unwrap()
}

#[test]
fn the_similarity_is_the_mean_of_the_cosines() {
    let (device, mut random) = (Device::cpu(), Random::new(2));
    let members = [head(6, 1), head(6, 2), head(6, 3)];
    let mut ensemble = Head::ensemble(members.to_vec()).unwrap();
    assert_eq!((ensemble.dim(), ensemble.members()), (18, members.to_vec()));
    let [x, y] = DIMS.map(|dim| random.values(4 * dim));
    let similarities = |head: &Head| -> Vec<f32> {
        let x = head.encode(&device, Side::Image, &x, &[1; 4]).unwrap();
        let y = head.encode(&device, Side::Text, &y, &[1; 4]).unwrap();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        x.chunks(head.dim()).flat_map(|x| y.chunks(head.dim()).map(move |y| dot(x, y))).collect()
    };
    let found = similarities(&ensemble);
    let own = members.each_ref().map(similarities);
    for (at, found) in found.iter().enumerate() {
        let mean = own.iter().map(|own| own[at]).sum::<f32>() / 3.0;
        assert!((found - mean).abs() < 1e-6, "{found} {mean}");
    }
    // Parameters of a member have its number.
    let name = "members.3.image.fourier.weight";
    assert_eq!(ensemble.parameter(name).unwrap(), members[2].parameter("image.fourier.weight").unwrap());
    ensemble.set_parameter(name, &[0.5; 24]).unwrap();
    assert_eq!(ensemble.members()[2].parameter("image.fourier.weight").unwrap(), [0.5; 24]);
    assert_eq!(ensemble.members()[..2], members[..2]);
    assert_eq!(ensemble.parameters().len(), 3 * members[0].parameters().len());
    assert!(ensemble.parameter("members.4.image.weight").is_err());
}

#[test]
fn heads_that_differ_make_no_ensemble() {
    let fault = |members: Vec<Head>| Head::ensemble(members).unwrap_err().to_string();
    assert!(fault(Vec::new()).contains("expected 1 to 64 members, found 0"));
    let found = fault(vec![head(6, 1), head(6, 2), head(7, 3)]);
    assert!(found.contains("standardisation of the first, found others in member 3"), "{found}");
    let nested = Head::ensemble(vec![head(6, 1), head(6, 2)]).unwrap();
    assert!(fault(vec![head(6, 1), nested.clone()]).contains("expected one head, found an ensemble of 2"));
    let gradient = nested.encode_backward(&Device::cpu(), Side::Image, &[1.0; 5], &[1], &[1.0; 12]);
    let gradient = gradient.map(|_| ()).unwrap_err().to_string();
    assert!(gradient.contains("gradient of an embedding: expected one head"), "{gradient}");
    let config = HeadConfig::default().with(|c| c.ensemble = 2);
    assert!(Head::for_config(5, 3, &config, 0).unwrap_err().to_string().contains("Head::ensemble"));
}
