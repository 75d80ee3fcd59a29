"""The other side of `bench booster`: for each seed that it reads from stdin, scikit-learn's histogram booster on make_classification.

usage: booster.py FOLDER; writes FOLDER/{train,test}-{x,y}.bin (float64 row-major, int64) and prints a line of JSON per seed.
"""
import json
import os
import sys
import time

import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, log_loss

folder = sys.argv[1]
for line in sys.stdin:
    seed = int(line)
    x, y = make_classification(n_samples=12_500, n_features=40, n_informative=20, n_classes=6, random_state=seed)
    parts = {"train": (x[:10_000], y[:10_000]), "test": (x[10_000:], y[10_000:])}
    for name, (a, b) in parts.items():
        np.ascontiguousarray(a, dtype="<f8").tofile(os.path.join(folder, name + "-x.bin"))
        np.ascontiguousarray(b, dtype="<i8").tofile(os.path.join(folder, name + "-y.bin"))
    model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    start = time.perf_counter()
    model.fit(*parts["train"])
    fitted = time.perf_counter()
    took = []
    for _ in range(5):
        t = time.perf_counter()
        p = model.predict_proba(parts["test"][0])
        took.append(time.perf_counter() - t)
    truth = parts["test"][1]
    print(json.dumps({"accuracy": accuracy_score(truth, p.argmax(1)), "log_loss": log_loss(truth, p), "fit": fitted - start, "predict": sorted(took)[2]}), flush=True)
