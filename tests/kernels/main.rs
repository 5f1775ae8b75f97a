//! Every kernel, in every variant, on every device, against its twin in f64.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/random.rs"]
mod random;

mod bench;
mod blocks;
mod entries;
mod fields;
mod local;
mod matmul;
mod rows;
mod steps;

fn main() {
    let tests: [(&str, fn(&wgoal::Device) -> bench::Outcome); 40] = [
        ("entries", entries::entries),
        ("matmul", matmul::matmul),
        ("matmul_subgroups", matmul::matmul_subgroups),
        ("l2norm", rows::l2norm),
        ("l2norm_backward", rows::l2norm_backward),
        ("column_sum", rows::column_sum),
        ("compose", rows::compose),
        ("compose_bank", rows::compose_bank),
        ("mined_order", rows::mined_order),
        ("ranks", rows::ranks),
        ("ranks_by_hand", rows::ranks_by_hand),
        ("hardest", blocks::hardest),
        ("relative", blocks::relative),
        ("next_hardest", blocks::next_hardest),
        ("dense_sum", blocks::dense_sum),
        ("log_sum_exp", blocks::log_sum_exp),
        ("dense_field", fields::dense_field),
        ("accumulate", steps::accumulate),
        ("infonce", fields::infonce),
        ("exponential_sum", blocks::exponential_sum),
        ("exponential_field", fields::exponential_field),
        ("weights", fields::weights),
        ("custom_weights", fields::custom_weights),
        ("sum_squares", steps::sum_squares),
        ("record", steps::record),
        ("adamw", steps::adamw),
        ("sgd", steps::sgd),
        ("widen", steps::widen),
        ("ceiling", steps::ceiling),
        ("gru", local::gru),
        ("gru_backward", local::gru_backward),
        ("gpo_weights", local::gpo_weights),
        ("gpo_weights_backward", local::gpo_weights_backward),
        ("gpo_order", local::gpo_order),
        ("gpo", local::gpo),
        ("gpo_backward", local::gpo_backward),
        ("gpo_dots", local::gpo_dots),
        ("batch_norm", local::batch_norm),
        ("batch_norm_backward", local::batch_norm_backward),
        ("guard", bench::guard),
    ];
    common::run(tests.map(|(name, test)| (name.to_string(), test)).to_vec())
}
