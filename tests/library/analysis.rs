//! Compares the findings of `Objective::analyze` with docs/math.md, "Integrability", and with closed forms.

use wgoal::Objective;
use wgoal::objective::{CustomWeights, GoalParams};

fn goal(name: &str, tau: f32) -> Objective {
    match name.parse().unwrap() {
        Objective::Goal(triplet, pair, params) => {
            Objective::Goal(triplet, pair, params.with(|c| c.tau = tau))
        }
        other => other,
    }
}

/// The asymmetry at tau = 3, as measured on the published code with other batches; `None` for a gradient that is
/// integrable.
#[test]
fn integrable_combinations_are_told_from_the_others() {
    let table = [
        ("con:con", None),
        ("nca:con", None),
        ("con:lin", None),
        ("con:sig", None),
        ("cir:lin", None),
        ("hinge", None),
        ("hinge-sum", None),
        ("infonce", None),
        ("binomial-deviance", None),
        ("contrastive", None),
        ("multi-similarity", None),
        ("lifted", None),
        ("con:lin-ms", Some([0.14, 0.24])),
        ("con:sig-ms", Some([0.15, 0.4])),
        ("nca:lin", Some([0.06, 0.2])),
        ("nca:lin-ms", Some([0.16, 0.25])),
        ("nca:sig", Some([0.08, 0.2])),
        ("nca:sig-ms", Some([0.12, 0.4])),
        ("cir:con", Some([0.2, 0.5])),
        ("cir:lin-ms", Some([0.12, 0.2])),
        ("cir:sig", Some([0.06, 0.1])),
        ("cir:sig-ms", Some([0.11, 0.4])),
    ];
    for (name, expected) in table {
        let analysis = goal(name, 3.0).analyze().unwrap();
        let [low, high] = analysis.asymmetry;
        assert_eq!(analysis.integrable, expected.is_none(), "{name}: {analysis}");
        match expected {
            None => assert!(high < 1e-6, "{name}: {high}"),
            Some([least, most]) => {
                assert!(high >= least && high <= 2.0 * most && low > 1e-3, "{name}: {low} {high}")
            }
        }
    }
}

#[test]
fn curl_is_that_of_the_closed_form() {
    // nca:lin: T = sigma(tau (n − p)), so the curl is tau T (1 − T) (1 − p − n). Its maximum is 3/4 tau, at p = n = −1.
    let plane = goal("nca:lin", 3.0).analyze().unwrap().plane.unwrap();
    assert!((plane.curl - 0.75 * 3.0).abs() < 1e-6, "{}", plane.curl);
    // con:lin-ms has no curl within a triplet.
    let plane = goal("con:lin-ms", 3.0).analyze().unwrap().plane.unwrap();
    assert!(plane.curl < 1e-9, "{}", plane.curl);
}

#[test]
fn wrong_directions_and_overflow_are_found() {
    let plane = |name: &str, params| match name.parse().unwrap() {
        Objective::Goal(triplet, pair, _) => {
            Objective::Goal(triplet, pair, params).analyze().unwrap().plane.unwrap()
        }
        _ => unreachable!(),
    };
    let usual = GoalParams::default();
    let lin = plane("con:lin", usual);
    assert!(lin.positive_wrong.is_none());
    let region = lin.negative_wrong.unwrap();
    assert!((region.share - 100.0 / 201.0).abs() < 1e-9, "{region:?}");
    assert!(region.p == [-1.0, 1.0] && region.n[0] == -1.0, "{region:?}");
    assert!((region.n[1] + 0.01).abs() < 1e-9, "{region:?}");
    assert!(lin.positive == [0.0, 2.0] && lin.negative == [-1.0, 1.0]);
    let sig = plane("con:sig", usual);
    assert!(sig.negative_wrong.is_none() && sig.positive_wrong.is_none() && sig.overflow.is_empty());
    // The weight is 1 / e^(-beta (n - lambda)), here at n = 1.
    let sig_ms = plane("con:sig-ms", usual);
    assert!((sig_ms.negative[1] - 5f64.exp()).abs() < 1e-9 && sig_ms.overflow.is_empty());
    let steep = plane("con:sig-ms", usual.with(|c| c.beta = 200.0));
    assert!(steep.overflow.len() == 1 && steep.overflow[0].contains("n > 0.94"), "{:?}", steep.overflow);
    // lin-ms pushes easy positives away. Only batches show this.
    let batches = "con:lin-ms".parse::<Objective>().unwrap().analyze().unwrap().wrong_in_batches.unwrap();
    assert!(batches[1] < 1.0, "{batches:?}");
}

#[test]
fn weight_files_are_examined_like_the_built_in_ones() {
    let source = std::fs::read_to_string("examples/weights/cir_sig.wgsl").unwrap();
    let weights = CustomWeights::new("cir_sig.wgsl", &source, [("tau", 3.0)]).unwrap();
    let custom = Objective::Custom { weights, margin: None }.analyze().unwrap();
    let built_in = goal("cir:sig", 3.0).analyze().unwrap();
    let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(
        near(custom.asymmetry[0], built_in.asymmetry[0]) && near(custom.asymmetry[1], built_in.asymmetry[1])
    );
    assert!(near(custom.plane.unwrap().curl, built_in.plane.unwrap().curl));
}

/// Progress is reported often, however slow the objective is, and never goes back.
#[test]
fn progress_is_reported_often() {
    let source = "fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0 - p, n); }
        fn triplet_weight(p: f32, n: f32) -> f32 {
            var x = p; for (var i = 0; i < 300; i++) { x = x * 0.5 + 0.1; } return x;
        }";
    let weights = CustomWeights::new("slow.wgsl", source, []).unwrap();
    let mut shares = Vec::new();
    Objective::Custom { weights, margin: None }.analyze_with(|share| shares.push(share)).unwrap();
    assert!(shares.windows(2).all(|pair| pair[0] <= pair[1] && pair[1] - pair[0] < 0.05), "{shares:?}");
    assert!(shares.len() > 20 && shares[0] < 0.05 && shares[shares.len() - 1] > 0.95, "{shares:?}");
}

/// The push of this objective is near zero in most of the plane. A linear scale would leave that part blank.
#[test]
fn a_plot_shows_structure_where_weights_are_small() {
    let svg = wgoal::analysis::plot(&goal("cir:sig-ms", 3.0)).unwrap();
    let push = svg.split("the push on the negative").nth(2).unwrap();
    // The cells of each shade, in a row of neighbours one rectangle. Those of the legend have the same width.
    let area = |shade: usize| -> f64 {
        let rects = push.split("<rect ").filter(|rect| rect.contains(&format!("class=\"f-h{shade}\"")));
        let number = |rect: &str, key: &str| -> f64 {
            rect.split(&format!(" {key}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        rects.skip(1).map(|rect| number(rect, "width") * number(rect, "height")).sum()
    };
    let areas: Vec<f64> = (0..13).map(area).collect();
    let whole: f64 = areas.iter().sum();
    let used = areas.iter().filter(|&&area| area > 0.05 * whole).count();
    assert!(used >= 5, "{areas:?}");
    assert!(push.matches("<polyline").count() >= 5, "contours");
}

#[test]
fn plots_are_drawn_where_there_are_weights() {
    let svg = wgoal::analysis::plot(&goal("nca:lin", 3.0)).unwrap();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    // Two planes, each with its diagonal and its axes.
    assert_eq!((svg.matches("p = n").count(), svg.matches("similarity of the negative").count()), (2, 2));
    let error = wgoal::analysis::plot(&"infonce".parse().unwrap()).unwrap_err().to_string();
    assert!(
        error.starts_with("--plot: expected an objective with weights over p and n, found infonce"),
        "{error}"
    );
}
