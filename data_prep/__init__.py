"""Public grounded data sets -> parquet files that sayo (or plain TRL) trains on."""
