"""Arguments of timm's training script: carried, independent of the batch size, or named."""

from __future__ import annotations

from legw.adapters.forms import CARRIED, COUNTS, KEPT, Named, Setting, all_of

SETTINGS: dict[str, Setting] = {
    **all_of(
        "batch_size grad_accum_steps lr lr_base lr_base_size lr_base_scale sched "
        "sched_on_updates epochs warmup_epochs warmup_lr warmup_prefix min_lr decay_rate "
        "decay_epochs decay_milestones opt opt_eps opt_betas momentum weight_decay clip_grad "
        "clip_mode cooldown_epochs lr_noise lr_cycle_limit lr_k_decay layer_decay lr_decay_fn "
        "lr_stable_timescale world_size model_ema model_ema_decay",
        CARRIED,
    ),
    "opt_kwargs": Named("changes settings of the optimizer, and stays"),
    "opt_args": Named("changes settings of the optimizer, and stays"),
    "epoch_repeats": Named("makes an epoch of so many passes; num_examples has to count them all"),
    "train_num_samples": Named("sets the examples of an epoch; give it as num_examples"),
    "aug_repeats": Named("has each image so many times in a batch, and stays"),
    "naflex_loader": Named("fills a batch by tokens, so that its images vary"),
    "resume": Named("goes on with a run, whose batch and place it has"),
    "start_epoch": Named("begins in the middle of the schedule, and stays"),
    "bn_momentum": Named("is an average over passes, and stays"),
    **all_of("log_interval recovery_interval", COUNTS),
    # Of what acts only beside another argument, that other one is named: lr_noise,
    # lr_cycle_limit, layer_decay, sched='plateau', model_ema.
    **all_of(
        "lr_noise_pct lr_noise_std lr_cycle_mul lr_cycle_decay layer_decay_min_scale "
        "layer_decay_no_opt_scale patience_epochs model_ema_warmup "
        "model_ema_force_cpu",
        KEPT,
    ),
    **all_of(
        "config data data_dir dataset train_split val_split val_num_samples dataset_download "
        "dataset_trust_remote_code class_map input_img_mode input_key target_key model pretrained "
        "pretrained_path initial_checkpoint no_resume_opt num_classes gp img_size in_chans "
        "input_size crop_pct mean std interpolation validation_batch_size channels_last fuser "
        "grad_checkpointing fast_norm model_kwargs head_init_scale head_init_bias "
        "torchcompile_mode torchscript torchcompile device amp amp_dtype amp_impl model_dtype "
        "no_ddp_bb synchronize_step local_rank device_modules opt_foreach no_aug train_crop_mode "
        "scale ratio hflip vflip color_jitter color_jitter_prob grayscale_prob "
        "gaussian_blur_prob aa aug_splits jsd_loss bce_loss bce_sum bce_target_thresh "
        "bce_pos_weight reprob remode recount resplit mixup cutmix cutmix_minmax mixup_prob "
        "mixup_switch_prob mixup_mode mixup_off_epoch smoothing train_interpolation drop "
        "drop_connect drop_path drop_block bn_eps sync_bn dist_bn split_bn seed worker_seeding "
        "checkpoint_hist val_interval workers save_images pin_mem no_prefetcher output "
        "experiment eval_metric tta use_multi_epochs_loader log_wandb wandb_project "
        "wandb_tags wandb_resume_id naflex_train_seq_lens naflex_max_seq_len naflex_patch_sizes "
        "naflex_patch_size_probs naflex_loss_scale kd_model_name kd_distill_type kd_loss_type "
        "distill_loss_weight task_loss_weight kd_temperature kd_student_feature_dim "
        "kd_teacher_feature_dim kd_token_distill_type prefetcher distributed rank",
        KEPT,
    ),
}
"""By name, as of timm 1.0.31; a test compares them with what its factories read."""
