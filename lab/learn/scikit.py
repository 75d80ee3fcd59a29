"""scikit-learn's side of `lab/learn`: the same rows, weights and features as our learners.

usage: scikit.py FOLDER. A line of JSON on stdin names a learner, a seed and how many columns each table has; a table N is
FOLDER/N-{x,y,w,t}.bin (float64: features row by row, 0 or 1, weights, features asked about). It writes FOLDER/N-p.bin, the
probability of 1 for each row asked about, and prints "done". Settings are scikit-learn's own, but for "our settings",
which are those of our booster as far as it has them (of rows it draws no part).
"""
import json
import os
import sys

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

folder = sys.argv[1]
for line in sys.stdin:
    task = json.loads(line)
    for n, columns in enumerate(task["columns"]):
        x, y, w, t = (np.fromfile(os.path.join(folder, f"{n}-{s}.bin"), dtype="<f8") for s in "xywt")
        x, t = x.reshape(-1, columns), t.reshape(-1, columns)
        known = ~np.isnan(x).all(axis=0)  # the histogram booster takes no column of which nothing is known
        x, t = x[:, known], t[:, known]
        if task["learner"] == "HistGradientBoosting":
            model = HistGradientBoostingClassifier(random_state=task["seed"])
        elif task["learner"] == "HistGradientBoosting at our settings":
            model = HistGradientBoostingClassifier(random_state=task["seed"], max_iter=80, learning_rate=.1, max_leaf_nodes=8, max_depth=3,
                                                   min_samples_leaf=10, l2_regularization=5, max_features=.5, early_stopping=False)
        else:
            model = RandomForestClassifier(random_state=task["seed"], n_jobs=-1)
        p = np.zeros(len(t))
        if len(t):
            model.fit(x, y.astype(int), sample_weight=w)
            p = model.predict_proba(t)[:, list(model.classes_).index(1)]
        p.astype("<f8").tofile(os.path.join(folder, f"{n}-p.bin"))
    print("done", flush=True)
