"""Temperatures of a year: a page, the figures as JSON, and a chart drawn on request."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import pandas as pd
from flask import Flask, Response, jsonify, render_template
from matplotlib.figure import Figure

GREETING = "Temperatures"

app = Flask(__name__)
readings = pd.read_csv(Path(__file__).with_name("readings.csv"), parse_dates=["date"])


def monthly() -> pd.Series:
    """Mean of every month, in degrees Celsius, indexed by the month's number."""
    return readings.groupby(readings["date"].dt.month)["celsius"].mean().round(1)


@app.get("/")
def page() -> str:
    return render_template("page.html", greeting=GREETING, months=monthly().items())


@app.get("/health")
def health() -> Response:
    return Response("ok\n", mimetype="text/plain")


@app.get("/summary.json")
def summary() -> Response:
    celsius = readings["celsius"]
    warmest = monthly().idxmax()
    return jsonify(
        greeting=GREETING, readings=len(celsius), mean=round(float(celsius.mean()), 2), warmest_month=int(warmest)
    )


@app.get("/chart.png")
def chart() -> Response:
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    months = monthly()
    axes.plot(months.index, months.to_numpy(), marker="o")
    axes.set(title=GREETING, xlabel="month", ylabel="°C")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return Response(picture.getvalue(), mimetype="image/png")
