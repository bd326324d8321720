"""An importer of a text file with one line per level: `seed level kept total accuracy`."""

from lt_sweeps.interchange.importers.imported_level import ImportedLevel


def read_lines(path, *, criterion: str = "theirs"):
    levels = []
    for line in path.read_text().splitlines():
        seed, level, kept, total, accuracy = line.split()
        levels.append(
            ImportedLevel(
                choices={"model": "fc", "dataset": "digits", "mask_criterion": criterion},
                config={"imported": path.name},
                seed=int(seed),
                level=int(level),
                left={"all": int(kept)},
                total={"all": int(total)},
                metrics={"test_accuracy": float(accuracy)},
            )
        )
    return levels
