"""python -m tune_app lists what can be typed."""

import sys

VERBS = {
    "run": "start, resume or extend a sweep            run family=seesaw · run resume=latest · run preset=NAME",
    "summary": "the leaderboard of a sweep                 summary sweep=latest format=md",
    "confirm": "replicates: is the winner a winner?        confirm sweep=latest top=4 replicates=5",
    "report": "one HTML file of a sweep, offline          report sweep=latest",
    "plan": "what a sweep will cost, before it starts   plan family=seesaw measure=true",
    "export": "the best configurations, with weights      export sweep=latest top=3 out=best/",
    "predict": "an export applied to a crop or a volume    predict checkpoint=best/1 volume=PATH out=pred.zarr",
    "show": "what a trained network is, and its worth    show checkpoint=best/1",
    "compare": "two sweeps, trials or exports              compare a=NAME b=latest · compare a=best/1 b=best/2",
    "sweeps": "what lies on disk; delete, clean           sweeps action=delete sweep=NAME",
    "frequencies": "exact class counts of the training crops   frequencies data=cellmap data.root=PATH",
    "submit": "a sweep as a job on a cluster              submit family=seesaw · submit jobs · submit stop id=ID",
    "data": "make the phantom, check a data set         data action=check data=cellmap data.root=PATH",
}


def main() -> None:
    """Print the verbs; exit code 2 for an unknown one."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word and word not in ("-h", "--help"):
        dotted = f"python -m tune_app.{word}" if word in VERBS else f"one of {', '.join(VERBS)}, with a dot before it"
        print(f"error: {word}: type {dotted}, for example python -m tune_app.run family=seesaw", file=sys.stderr)
        sys.exit(2)
    print("python -m tune_app.VERB key=value …      --help after any verb shows its settings\n")
    for name, line in VERBS.items():
        print(f"  {name:<12} {line}")


if __name__ == "__main__":
    main()
