//! The golden vectors of the published code, in a browser. `scripts/web test` runs this.
#![cfg(target_arch = "wasm32")]

#[path = "../../tests/golden/vectors.rs"]
mod vectors;

use vectors::{Compared, Golden};
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};
use wgoal::Device;

wasm_bindgen_test_configure!(run_in_browser);

/// The GPU of the browser. The CPU would agree as well, and is not what these tests are about.
async fn gpu() -> Device {
    let device = Device::open_async("gpu").await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(device.info().backend, "webgpu");
    device
}

fn open(bytes: &[u8]) -> Golden {
    Golden::of(bytes.to_vec()).unwrap_or_else(|error| panic!("{error}"))
}

fn agrees(what: &str, compared: Compared) {
    compared.unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// A test of the 15 combinations for a file.
macro_rules! goal {
    ($($name:ident)*) => {
        $(
            #[wasm_bindgen_test]
            async fn $name() {
                let bytes = include_bytes!(concat!("../../tests/golden/", stringify!($name), ".npz"));
                agrees(stringify!($name), vectors::goal(&gpu().await, open(bytes)).await);
            }
        )*
    };
}

#[allow(non_snake_case, reason = "the names of the files")]
mod goal {
    use super::*;

    goal!(goal_edge_n1 goal_edge_ties_d4 goal_N3_D5_s0 goal_N8_D5_s1 goal_N8_D64_s0_alt goal_N37_D5_s0 goal_N37_D64_s0);
}

#[wasm_bindgen_test]
async fn hinge() {
    let bytes = include_bytes!("../../tests/golden/hinge_N8_D64.npz");
    agrees("hinge", vectors::hinge(&gpu().await, open(bytes)).await);
}

#[wasm_bindgen_test]
async fn infonce() {
    let bytes = include_bytes!("../../tests/golden/infonce_N8_D64.npz");
    agrees("infonce", vectors::infonce(&gpu().await, open(bytes)).await);
}
