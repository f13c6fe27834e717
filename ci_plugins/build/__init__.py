"""Executing a plan: chains of layers, steps one after another, stages side by side, layers streaming behind them."""
