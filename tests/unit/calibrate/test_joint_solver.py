import numpy as np
from scipy import sparse

from skymill.calibrate.joint_solver import JointProblem, Weights, solve_step, update_weights


def make_problem(rng, n_star=60, per_star=4, n_parameter=6, n_reference=15):
    star = np.repeat(np.arange(n_star), per_star)
    design = rng.normal(size=(star.size, n_parameter)) * (
        rng.random((star.size, n_parameter)) < 0.5
    )
    value = rng.normal(size=(n_star, 2))
    truth = rng.normal(size=(n_parameter, 2))
    error = rng.uniform(0.5, 2.0, star.size)
    reference_star = rng.choice(n_star, n_reference, replace=False)
    reference_error = rng.uniform(0.5, 1.0, n_reference)
    measured = value[star] - design @ truth + rng.normal(size=(star.size, 2)) * error[:, None]
    reference = value[reference_star] + (
        rng.normal(size=(n_reference, 2)) * reference_error[:, None]
    )
    problem = JointProblem(
        sparse.csr_array(design),
        star,
        np.full(n_parameter, 1e3),
        reference_star,
        reference,
        reference_error,
        n_star,
    )
    return problem, measured, error, truth, value


def everything(problem, error):
    return Weights(np.ones(error.size, bool), np.ones(problem.reference_star.size, bool), 0.0)


def test_elimination_of_the_stars_equals_the_full_least_squares():
    problem, measured, error, _, _ = make_problem(np.random.default_rng(1))
    start = np.zeros((6, 2))
    solution = solve_step(problem, measured, error, start, everything(problem, error))
    # Oracle: parameters and stars in one dense system, with the priors as rows.
    stars = np.zeros((error.size, problem.n_star))
    stars[np.arange(error.size), problem.star] = 1
    anchors = np.zeros((problem.reference_star.size, problem.n_star))
    anchors[np.arange(problem.reference_star.size), problem.reference_star] = 1
    w = 1 / error[:, None]
    wr = 1 / problem.reference_error[:, None]
    matrix = np.vstack([
        np.hstack([problem.design.toarray() * w, -stars * w]),
        np.hstack([np.zeros((anchors.shape[0], 6)), anchors * wr]),
        np.hstack([np.eye(6) / 1e3, np.zeros((6, problem.n_star))]),
    ])  # fmt: skip
    right = np.vstack([-measured * w, problem.reference * wr, np.zeros((6, 2))])
    full, *_ = np.linalg.lstsq(matrix, right, rcond=None)
    np.testing.assert_allclose(solution.step, full[:6], atol=1e-9)
    np.testing.assert_allclose(solution.value, full[6:], atol=1e-9)
    covariance = np.linalg.inv(matrix.T @ matrix)[:6, :6]
    np.testing.assert_allclose(solution.covariance, covariance, atol=1e-9)


def test_pulls_of_the_parameters_have_width_one():
    pulls = []
    for seed in range(200):
        problem, measured, error, truth, _ = make_problem(np.random.default_rng(seed))
        solution = solve_step(
            problem, measured, error, np.zeros((6, 2)), everything(problem, error)
        )
        pulls.append((solution.step - truth) / np.sqrt(np.diag(solution.covariance))[:, None])
    # 2400 pulls: 1.5 % of the width; 4 sigma.
    assert abs(np.std(pulls) - 1) < 0.06
    assert abs(np.mean(pulls)) < 0.08


def test_one_wrong_measurement_of_three_is_the_one_dropped():
    rng = np.random.default_rng(3)
    problem, measured, error, _, _ = make_problem(rng, per_star=3)
    measured[31] += 60.0
    weights = everything(problem, error)
    solution = solve_step(problem, measured, error, np.zeros((6, 2)), weights)
    new = update_weights(problem, solution, error, weights, clip=5.0)
    assert np.flatnonzero(~new.used).tolist() == [31]


def test_a_star_without_measurements_has_no_value():
    problem, measured, error, _, _ = make_problem(np.random.default_rng(4))
    weights = everything(problem, error)
    alone = np.setdiff1d(np.arange(problem.n_star), problem.reference_star)[0]
    weights.used[problem.star == alone] = False
    solution = solve_step(problem, measured, error, np.zeros((6, 2)), weights)
    assert np.isnan(solution.value[alone]).all()
    assert np.isfinite(solution.step).all()
