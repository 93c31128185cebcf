"""The libraries of `python-ml`, with processes and threads of their own."""

import matplotlib.pyplot
import numpy
import pandas
import scipy.linalg
import scipy.optimize
from joblib import Parallel, delayed
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score


def square(number):
    return number * number


if __name__ == "__main__":
    matrix = numpy.random.default_rng(1).random((300, 300))
    assert numpy.allclose(scipy.linalg.inv(matrix) @ matrix, numpy.eye(300), atol=1e-6)
    assert abs(scipy.optimize.minimize(lambda x: (x[0] - 3) ** 2, [0.0]).x[0] - 3) < 1e-3
    numpy.save("m.npy", matrix)
    numpy.load("m.npy", mmap_mode="r").sum()
    frame = pandas.DataFrame({"a": range(100), "b": [1, 2] * 50})
    frame.to_csv("f.csv")
    assert pandas.read_csv("f.csv").groupby("b").a.sum().tolist() == [2450, 2500]
    data, target = load_iris(return_X_y=True)
    forest = RandomForestClassifier(10, n_jobs=2)
    assert cross_val_score(forest, data, target, n_jobs=2).mean() > 0.8
    for backend in ("loky", "threading", "multiprocessing"):
        assert Parallel(n_jobs=2, backend=backend)(delayed(square)(n) for n in range(4)) == [
            0,
            1,
            4,
            9,
        ]
    matplotlib.pyplot.plot([1, 2, 3])
    matplotlib.pyplot.savefig("p.png")
    print("fine")
